"""The packets of a video stream: when their frames are shown, and which of them a frame is decoded from."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

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


NO_STAMP = -(2**63)
# Containers that give each packet the time at which its frame is shown, and lead to a packet by its time.
MOV, MATROSKA, AVI = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"
INDEXED = (MOV, MATROSKA, AVI)
# Codecs with packets that hold one shown frame each. VP8 has packets that are never shown.
SEEKABLE = ("h264", "hevc", "mpeg4", "vp9", "mjpeg", "prores", "dnxhd", "ffv1")
# Bytes between two neighbouring packets of a Matroska file, beyond which something may have been lost between them.
MOST_BETWEEN = 256


class Unseekable(Exception):
    """The packets of a file do not tell its frames, or the decoder gives others: all of it is to be decoded."""


@dataclass
class PacketTable:
    """The packets of a stream, in the order of the file.

    stamps: int64 [n], when each packet's frame is shown, NO_STAMP where the file does not say. keys: bool [n], whether
    it is a key frame. hidden: how many frames an edit list hides. corrupt: stamps of packets marked as damaged.
    gaps: stamps of the packets before which bytes belong to no packet. empty: packets that repeat the frame before.
    packets: themselves, if kept in memory.
    """

    stamps: np.ndarray
    keys: np.ndarray
    hidden: int
    corrupt: frozenset[int]
    gaps: frozenset[int]
    empty: int
    packets: list[Any] | None

    @property
    def tell_decoding(self) -> bool:
        """Whether stamps rise from packet to packet, as they do in a stream that reorders frames only if they are the
        times of decoding."""
        return bool((self.stamps != NO_STAMP).all() and (np.diff(self.stamps) > 0).all())


@dataclass(frozen=True)
class PacketIndex:
    """stamps: int64 [n], when each packet's frame is shown, in units of `unit` seconds; no two are equal.
    keys: bool [n], whether it is a key frame; the first shown one is. Both in the order of the file."""

    stamps: np.ndarray
    keys: np.ndarray
    unit: float
    rate: float = 25.0

    def __post_init__(self) -> None:
        ordered = self.stamps[self.order]
        if not len(ordered) or (np.diff(ordered) <= 0).any() or not self.keys[self.order[0]]:
            raise Unseekable

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [n]: the packets' places in the file, in the order in which their frames are shown."""
        return np.argsort(self.stamps, kind="stable")

    @cached_property
    def seconds(self) -> np.ndarray:
        """float64 [n], ascending: seconds from the first frame shown to each, as when all of them are decoded."""
        times = FrameTimes(self.unit, self.rate, restarts=False)
        return np.asarray([times(stamp) for stamp in self.stamps[self.order].tolist()], dtype=np.float64)

    @property
    def key_frames(self) -> np.ndarray:
        """int64 [m], ascending: numbers of the key frames, in the order of showing."""
        return np.flatnonzero(self.keys[self.order])

    def needed(self, frames: Sequence[int]) -> np.ndarray:
        """bool [n], in the order of the file: whether a packet comes between one of `frames` (ascending numbers in
        the order of showing) and the key frame that it is decoded from."""
        keys = self.key_frames
        ends = self.order[np.asarray(frames, dtype=np.int64)]
        starts = self.order[keys[np.searchsorted(keys, frames, side="right") - 1]]
        if (starts > ends).any():
            raise Unseekable
        change = np.zeros(len(self.stamps) + 1, dtype=np.int64)
        np.add.at(change, starts, 1)
        np.add.at(change, ends + 1, -1)
        return change[:-1].cumsum() > 0


class TableBuilder:
    """Collects the packets of the streams that may be the video; `table` is that of one of them."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._packets: dict[int, list[Any]] = {}
        self._facts: dict[int, list[tuple[int, bool]]] = {}
        self._hidden: dict[int, int] = {}
        self._corrupt: dict[int, set[int]] = {}
        self._empty: dict[int, int] = {}
        self._end: int | None = None
        self._after_gap: dict[int, bool] = {}
        self._gaps: dict[int, set[int]] = {}

    def add(self, packet: Any, wanted: bool, is_matroska: bool) -> None:
        """Takes the next packet of the file. wanted: it is of a stream that may be the video."""
        if not packet.size:  # one without a time marks the end
            self._empty[packet.stream_index] = self._empty.get(packet.stream_index, 0) + (packet.dts is not None)
            return
        if is_matroska and packet.pos is not None and packet.pos >= 0:
            if self._end is not None and packet.pos - self._end > MOST_BETWEEN:
                self._after_gap.update(dict.fromkeys(self._facts, True))
            self._end = packet.pos + packet.size
        if not wanted:
            return
        stream = packet.stream_index
        stamp = packet.pts if packet.pts is not None else NO_STAMP
        if self._after_gap.pop(stream, False):
            self._gaps.setdefault(stream, set()).add(stamp)
        self._facts.setdefault(stream, []).append((stamp, packet.is_keyframe))
        self._hidden[stream] = self._hidden.get(stream, 0) + packet.is_discard
        if packet.is_corrupt:
            self._corrupt.setdefault(stream, set()).add(stamp)
        if self._keep:
            self._packets.setdefault(stream, []).append(packet)

    def count(self, stream: int) -> int:
        """Packets of a stream so far."""
        return len(self._facts.get(stream, ()))

    def table(self, stream: int) -> PacketTable:
        facts = self._facts.get(stream, [])
        return PacketTable(
            np.asarray([stamp for stamp, _ in facts], dtype=np.int64),
            np.asarray([key for _, key in facts], dtype=bool),
            self._hidden.get(stream, 0),
            frozenset(self._corrupt.get(stream, ())),
            frozenset(self._gaps.get(stream, ())),
            self._empty.get(stream, 0),
            self._packets.get(stream, []) if self._keep else None,
        )
