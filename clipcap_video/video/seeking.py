"""Frames of a video without decoding all of it: an index of its packets, then only the packets that are needed.

Packets carry the times of their frames, and reading them takes a hundredth of the time that decoding takes. So the
frames to keep are chosen by their true times before one is decoded. Then each is decoded from the key frame before it,
and on the way there the codec leaves out the frames that no other frame refers to (half of an ordinary H.264 file).
Kept frames have the same pixels as after decoding everything. A file in which something does not agree (frames without
a time, a damaged packet, an edit list) is refused, and is to be read from beginning to end instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# Where each packet is one frame that is shown, and says when. VP8 has packets that are never shown.
CODECS = ("h264", "hevc", "mpeg4", "vp9", "mjpeg")
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
# A file with fewer packets than this share of what its header promises is cut off.
WHOLE = 0.9
# Packets of a file of so many bytes at most are kept in memory rather than read twice.
SMALL = 2**24
QUARTERS = {0: 0, 90: 1, 180: 2, -180: 2, -90: 3, 270: 3}


class Unseekable(Exception):
    """The packets of a file do not tell its frames, or the decoder gives others."""


@dataclass(frozen=True)
class PacketIndex:
    """stamps: int64 [n], when each packet's frame is shown, in units of `unit` seconds; no two are equal.
    keys: bool [n], whether it is a key frame; the first shown one is. Both in the order of the file."""

    stamps: np.ndarray
    keys: np.ndarray
    unit: float

    def __post_init__(self) -> None:
        ordered = self.stamps[self.order]
        if not len(ordered) or (np.diff(ordered) <= 0).any() or not self.keys[self.order[0]]:
            raise Unseekable

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [n]: the packets' places in the file, in the order in which their frames are shown."""
        return np.argsort(self.stamps, kind="stable")

    @property
    def seconds(self) -> np.ndarray:
        """float64 [n], ascending: seconds from the first frame shown to each."""
        ordered = self.stamps[self.order]
        return (ordered - ordered[0]) * self.unit

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


class IndexedVideo:
    """An open video whose frames can be decoded by their numbers; a context manager.

    threads: of the codec; 0 leaves it to the codec. Raises Unseekable, also while frames are read.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            # An absolute path is never taken for a URL, and nothing that a file names is fetched.
            self._container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Unseekable from error
        try:
            if self._container.format.name not in CONTAINERS or not self._container.streams.video:
                raise Unseekable
            self._stream = self._container.streams.video[0]
            self._context = self._stream.codec_context
            if self._context is None or self._context.name not in CODECS:
                raise Unseekable
            # Deeper colours are rounded in another way by OpenCV, which reads what is refused here.
            if self._context.format is None or any(part.bits > 8 for part in self._context.format.components):
                raise Unseekable
            self._context.thread_type = "AUTO"
            self._context.thread_count = threads
            # Damage is not to be hidden: what a whole decoding makes of it is what counts.
            self._context.options = {"err_detect": "explode"}
            self._kept: list[Any] | None = [] if path.stat().st_size <= SMALL else None
            self.index = self._read_index()
        except (av.FFmpegError, Unseekable) as error:
            self._container.close()
            raise Unseekable from error

    def __enter__(self) -> IndexedVideo:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    def _packets(self) -> Iterator[Any]:
        for packet in self._container.demux(self._stream):
            if packet.size:  # an empty one marks the end
                yield packet

    def _read_index(self) -> PacketIndex:
        stamps, keys = [], []
        for packet in self._packets():
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                raise Unseekable
            stamps.append(packet.pts)
            keys.append(packet.is_keyframe)
            if self._kept is not None:
                self._kept.append(packet)
        length = (self._container.duration or 0) / av.time_base * float(self._stream.average_rate or 0)
        if len(stamps) < WHOLE * (self._stream.frames or length) - 1:
            raise Unseekable
        index = PacketIndex(np.asarray(stamps, dtype=np.int64), np.asarray(keys), float(self._stream.time_base))
        # AVI holds no times of showing: they are known where frames are shown in the order of the file.
        if self._container.format.name == "avi" and (np.diff(index.stamps) < 0).any():
            raise Unseekable
        return index

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Each of the frames `numbers` (ascending, in the order of showing): its number, and uint8 RGB [H, W, 3]."""
        try:
            yield from self._frames(numbers)
        except (av.FFmpegError, ValueError) as error:
            raise Unseekable from error

    def _frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        stamps, reformatter = self.index.stamps, VideoReformatter()
        wanted = dict(zip(stamps[self.index.order[list(numbers)]].tolist(), numbers, strict=True))
        missing = list(reversed(wanted))
        for frame in self._decoded(self.index.needed(numbers), wanted):
            if frame.pts not in wanted:
                continue
            if not missing or frame.pts != missing.pop() or frame.is_corrupt or frame.rotation not in QUARTERS:
                raise Unseekable
            image = reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC").to_ndarray()
            turned = np.rot90(image, QUARTERS[frame.rotation])
            yield wanted[frame.pts], np.ascontiguousarray(turned)
        if missing:
            raise Unseekable

    def _decoded(self, needed: np.ndarray, wanted: dict[int, int]) -> Iterator[Any]:
        """Frames of the `needed` packets; of those not `wanted`, the ones that others refer to."""
        stamps = self.index.stamps.tolist()
        last = int(np.flatnonzero(needed)[-1])
        if self._kept is None:
            self._container.seek(min(stamps), stream=self._stream)
        entry = None  # the stamp of the key frame that this run of packets began with
        for place, packet in zip(range(last + 1), self._kept or self._packets(), strict=False):
            if packet.pts != stamps[place]:
                raise Unseekable
            if not needed[place]:
                continue
            entry = packet.pts if entry is None else entry
            # What is shown before a key frame and stored behind it refers to frames before the key frame.
            if packet.pts >= entry:
                self._context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                yield from self._context.decode(packet)
            if place == last or not needed[place + 1]:
                yield from self._context.decode(None)
                self._context.flush_buffers()
                entry = None
