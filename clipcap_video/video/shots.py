"""Shot boundaries, found by PySceneDetect while the frames pass by (https://www.scenedetect.com)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from clipcap_video.video.decoder import Frame

# The longest side of the pictures that shots are found on, as PySceneDetect scales them.
LOOK = 256
Look = tuple[Frame, bool]


class ShotDetector:
    """Passes frames on, a few frames late, and says of each whether a shot begins with it.

    The detector is PySceneDetect's AdaptiveDetector with its own defaults, which compares a frame's change with that
    of its neighbours, so that a moving camera is no cut. Frames are scaled down while they are decoded. How long a shot
    must be is left to whoever uses the boundaries.
    """

    def __init__(self) -> None:
        self._detector = AdaptiveDetector(min_scene_len=0)
        self._waiting: deque[tuple[int, Frame]] = deque()
        self._cuts: set[int] = set()
        self._count = 0

    def add(self, frame: Frame) -> Iterator[Look]:
        """Takes the next frame; gives those whose fate is known now. One that FFmpeg cannot convert is left out."""
        picture = frame.picture(LOOK)
        if picture is None:
            return
        # Frames are numbered for the detector, whose own clock believes in constant rates; times stay ours.
        cuts = self._detector.process_frame(FrameTimecode(self._count, 25.0), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._cuts.update(cut.frame_num for cut in cuts)
        self._waiting.append((self._count, frame))
        self._count += 1
        while len(self._waiting) > self._detector.event_buffer_length:
            yield self._next()

    def flush(self) -> Iterator[Look]:
        """The last frames, after the end."""
        while self._waiting:
            yield self._next()

    def _next(self) -> Look:
        number, frame = self._waiting.popleft()
        is_cut = number in self._cuts
        self._cuts.discard(number)
        return frame, is_cut
