"""Frames of a video without decoding all of it: chosen by the packets' times, then only the packets that are needed.

Packets carry the times of their frames, and reading them takes a hundredth of the time that decoding takes. So the
frames to keep are chosen by their true times before one is decoded. Then each is decoded from the key frame before it,
and on the way there the codec leaves out the frames that no other frame refers to (half of an ordinary H.264 file).
Kept frames have the same pixels as after decoding everything. A file in which something does not agree (frames without
a time, a damaged packet, an edit list, interlaced frames) is refused, and is to be decoded from beginning to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import av
import numpy as np

from clipcap_video.video.decoder import Decoder
from clipcap_video.video.packets import Unseekable

# Packets that are read and left out rather than passed over by entering the file again behind them.
FAR = 100
# Packets that may come before the one at which the file was to be entered.
MOST_SKIPPED = 1000


class IndexedVideo:
    """An open video whose frames can be decoded by their numbers; a context manager.

    decoder: open, and not used for anything else meanwhile. Raises Unseekable, also while frames are read.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.index = decoder.index()
        self._decoder = decoder
        self._source = decoder.source
        self.decoded = 0

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Each of the frames `numbers` (ascending, in the order of showing): its number, and uint8 RGB [H, W, 3]."""
        try:
            yield from self._frames(numbers)
        except (av.FFmpegError, ValueError) as error:
            raise Unseekable from error

    def _frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        stamps = self.index.stamps
        wanted = dict(zip(stamps[self.index.order[list(numbers)]].tolist(), numbers, strict=True))
        missing = list(reversed(wanted))
        for frame in self._decoded(self.index.needed(numbers), wanted):
            self.decoded += 1
            if frame.is_corrupt:
                raise Unseekable
            stamp = frame.pts
            if stamp not in wanted:
                continue
            if not missing or stamp != missing.pop() or frame.interlaced_frame:
                raise Unseekable
            yield wanted[stamp], self._decoder.maker.picture(frame, None, None)
        if missing:
            raise Unseekable

    def _decoded(self, needed: np.ndarray, wanted: dict[int, int]) -> Iterator[Any]:
        """Frames of the `needed` packets; of those not `wanted`, the ones that others refer to."""
        # Damage is not to be hidden: what a whole decoding makes of it is what counts.
        context = self._decoder.begin(strict=True, rewind=False)
        stamps = self.index.stamps.tolist()
        packets, place = self._entered(stamps[0]), 0
        for start, end in _runs(needed):
            if start - place > FAR and self._source.table.packets is None:
                packets, place = self._entered(stamps[start]), start
            for _ in islice(packets, start - place):
                pass
            for place, packet in zip(range(start, end + 1), packets, strict=False):
                if packet.pts != stamps[place]:
                    raise Unseekable
                # What is shown before a key frame and stored behind it refers to frames before the key frame.
                if packet.pts >= stamps[start]:
                    context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                    yield from context.decode(packet)
            yield from context.decode(None)
            context.flush_buffers()
            place = end + 1

    def _entered(self, stamp: int) -> Iterator[Any]:
        """The packets from that of the key frame `stamp` on."""
        packets = self._source.packets(stamp)
        for packet in islice(packets, MOST_SKIPPED):
            if packet.pts == stamp:
                return chain([packet], packets)
        raise Unseekable


def _runs(needed: np.ndarray) -> list[tuple[int, int]]:
    """First and last place of each run of True."""
    edges = np.flatnonzero(np.diff(needed.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(end) - 1) for start, end in zip(edges[::2], edges[1::2], strict=True)]
