"""Shot boundaries, found by PySceneDetect while the frames pass by (https://www.scenedetect.com)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector
from scenedetect.scene_manager import compute_downscale_factor

Look = tuple[float, np.ndarray, bool]


class ShotDetector:
    """Passes frames on, a few frames late, and says of each whether a shot begins with it.

    The detector is PySceneDetect's AdaptiveDetector with its own defaults, which compares a frame's change with that
    of its neighbours, so that a moving camera is no cut. Frames are shrunk as PySceneDetect does it. How long a shot
    must be is left to whoever uses the boundaries.
    """

    def __init__(self) -> None:
        self._detector = AdaptiveDetector(min_scene_len=0)
        self._waiting: deque[tuple[int, float, np.ndarray]] = deque()
        self._cuts: set[int] = set()
        self._count = 0

    def add(self, time: float, frame: np.ndarray) -> Iterator[Look]:
        """Takes the next frame, uint8 RGB [H, W, 3] at `time` in seconds; gives those whose fate is known now."""
        # Frames are numbered for the detector, whose own clock believes in constant rates; times stay ours.
        cuts = self._detector.process_frame(FrameTimecode(self._count, 25.0), _shrunk(frame))
        self._cuts.update(cut.frame_num for cut in cuts)
        self._waiting.append((self._count, time, frame))
        self._count += 1
        while len(self._waiting) > self._detector.event_buffer_length:
            yield self._next()

    def flush(self) -> Iterator[Look]:
        """The last frames, after the end."""
        while self._waiting:
            yield self._next()

    def _next(self) -> Look:
        number, time, frame = self._waiting.popleft()
        is_cut = number in self._cuts
        self._cuts.discard(number)
        return time, frame, is_cut


def _shrunk(frame: np.ndarray) -> np.ndarray:
    """As PySceneDetect's own reader gives frames to a detector: BGR, about 256 pixels wide."""
    height, width = frame.shape[:2]
    factor = compute_downscale_factor(max(width, height))
    if factor > 1:
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
