"""Errors of a codec: where they are, and what they mean for the frames behind them."""

from __future__ import annotations

from array import array
from contextlib import suppress
from typing import Any

import av
import numpy as np

# States of a frame. Doubtful ones follow a damaged one, up to the next key frame, and may refer to it.
SOUND, DOUBTFUL, DAMAGED = range(3)
# Frames behind an error in which a gap may be of its making.
TROUBLE_FRAMES = 20
# A step between frames that is so many times the usual one is a gap.
GAP = 1.5


class Trouble(Exception):
    """A strict codec met an error."""


def strictly(context: Any, packet: Any) -> list[Any]:
    """The frames that come out of a codec with a packet; None for the end. Raises Trouble."""
    try:
        frames = list(context.decode(packet))
    except av.EOFError:
        return []
    except (av.FFmpegError, ValueError) as error:
        raise Trouble from error
    if any(frame.is_corrupt for frame in frames):
        raise Trouble
    return frames


def tolerantly(context: Any, packet: Any) -> list[Any]:
    """The same, errors or not."""
    with suppress(av.FFmpegError, ValueError):
        return list(context.decode(packet))
    return []


class Errors:
    """Errors of a whole video. stamps: of the packets that have some. number: how many."""

    def __init__(self) -> None:
        self.stamps: set[int] = set()
        self.number = 0
        self._begun = False

    def look(self, context: Any, packet: Any) -> None:
        """Decodes the next packet; None for the end. What precedes the first key frame was never to be decoded."""
        self._begun = self._begun or packet is None or packet.is_keyframe
        try:
            frames = list(context.decode(packet))
        except av.EOFError:
            return
        except (av.FFmpegError, ValueError):
            if self._begun:
                self._add(packet.pts if packet is not None else None)
            return
        for frame in frames:
            if frame.is_corrupt:
                self._add(frame.pts)

    def _add(self, stamp: int | None) -> None:
        self.number += 1
        if stamp is not None:
            self.stamps.add(stamp)


class Count:
    """What happens while a video is decoded. times, stamps: of its frames. whole: whether from its beginning."""

    def __init__(self) -> None:
        self.times = array("d")
        self.stamps: set[int] = set()
        self.corrupt = 0
        self.whole = True
        self._doubtful = False
        self._trouble = 0
        self._troubled: list[int] = []  # frames that a gap of an error's making may precede

    def state(self, frame: Any, bad: set[int], suspects: set[int]) -> int:
        """The state of the next frame shown. bad: stamps of packets with errors. suspects: those, and stamps of frames
        before which something is missing."""
        damaged = frame.is_corrupt or frame.pts in bad
        if frame.key_frame and not damaged:
            self._doubtful = False
        elif damaged or frame.pts in suspects:
            self._doubtful = True
        if damaged or frame.pts in suspects:
            self._trouble = TROUBLE_FRAMES
        self.corrupt += damaged
        if self._trouble:
            self._trouble -= 1
            self._troubled.append(len(self.times))
        self.stamps.add(frame.pts)
        return DAMAGED if damaged else DOUBTFUL if self._doubtful else SOUND

    def missing_in_gaps(self, times: np.ndarray) -> int:
        """Frames missing where steps between `times` are long around trouble."""
        if len(times) < 3:
            return 0
        steps = np.diff(times)
        usual = float(np.median(steps))
        if usual <= 0:
            return 0
        near = {place - 1 for place in self._troubled} | set(self._troubled)
        long = np.asarray([steps[place] for place in near if 0 <= place < len(steps) and steps[place] > GAP * usual])
        missing = int(np.round(long / usual - 1).sum())
        return min(missing, max(0, round(float(times[-1]) / usual) + 1 - len(times)))
