"""When frames are shown, from the stamps that a file gives them: pure arithmetic."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# Seconds: where a container's clock may restart, a longer step is such a restart (ffmpeg's -dts_delta_threshold).
LONGEST_STEP = 10.0
# A step back by more frames than this is a restart; a shorter one is of frames that came out of order behind damage.
MOST_BACK = 8
# Frames that a codec may hold back to reorder them.
MOST_REORDERED = 16


class FrameTimes:
    """Seconds from the first frame shown to each, asked in the order of showing; they never decrease.

    unit: seconds of a stamp. rate: frames a second, for frames without a stamp. restarts: whether a long step of the
    stamps is a restart of the clock (MPEG streams), and no pause. A step back of more than MOST_BACK frames always is.
    """

    def __init__(self, unit: float, rate: float, restarts: bool) -> None:
        self._unit = unit
        self._rate = rate
        self._restarts = restarts
        self._base: int | None = None  # the stamp of time 0
        self._stamp: int | None = None  # the last one
        self._anchor = 0.0  # the time of the last frame with a stamp
        self._since = -1  # frames since
        self._time = 0.0

    def __call__(self, stamp: int | None) -> float:
        self._since += 1
        expected = self._anchor + self._since / self._rate
        if stamp is None:
            self._time = max(self._time, expected)
            return self._time
        jumps = self._jumps(stamp)
        if self._base is None or jumps:
            self._base = stamp - round(expected / self._unit)
        self._stamp = stamp if self._stamp is None or jumps else max(stamp, self._stamp)
        self._time = max(self._time, (stamp - self._base) * self._unit)
        self._anchor, self._since = self._time, 0
        return self._time

    def _jumps(self, stamp: int) -> bool:
        if self._stamp is None:
            return False
        step = (stamp - self._stamp) * self._unit
        return step < -MOST_BACK / self._rate or (self._restarts and step > LONGEST_STEP)


def sorted_stamps(frames: Iterable[tuple[T, int | None]]) -> Iterator[tuple[T, int | None]]:
    """Frames in the order of showing, with the stamps that they have together, in ascending order.

    For files whose stamps tell when a frame is decoded, not when it is shown (AVI, and what is copied from it).
    """
    waiting: list[tuple[T, int | None]] = []
    stamps: list[int] = []
    for frame, stamp in frames:
        waiting.append((frame, stamp))
        if stamp is not None:
            heapq.heappush(stamps, stamp)
        if len(waiting) > MOST_REORDERED:
            first, had = waiting.pop(0)
            yield first, None if had is None else heapq.heappop(stamps)
    for frame, had in waiting:
        yield frame, None if had is None else heapq.heappop(stamps)


def in_order(frames: Iterable[tuple[T, int | None]], most: int) -> Iterator[tuple[T, int | None]]:
    """Frames by their own stamps, as a decoder fails to give them behind damage. A step of more than `most` stamps is
    not put right: there the clock restarts."""
    waiting: list[tuple[int, int, T]] = []
    newest = 0
    for place, (frame, stamp) in enumerate(frames):
        if stamp is None or (waiting and abs(stamp - newest) > most):
            while waiting:
                first = heapq.heappop(waiting)
                yield first[2], first[0]
        if stamp is None:
            yield frame, None
            continue
        newest = stamp
        heapq.heappush(waiting, (stamp, place, frame))
        if len(waiting) > MOST_REORDERED:
            first = heapq.heappop(waiting)
            yield first[2], first[0]
    while waiting:
        first = heapq.heappop(waiting)
        yield first[2], first[0]
