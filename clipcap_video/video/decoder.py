"""The only decoder: a whole video, from a time on, or chosen frames, each with its true time counted from the first.

Packets carry the times of their frames, and reading them takes a hundredth of the time that decoding takes. So frames
are chosen by their times before one is decoded (`IndexedVideo`): each is decoded from the key frame before it, and the
codec leaves out the frames that no other refers to. The pixels are those of decoding everything. A file in which
something does not agree (no times, damage, an edit list, interlaced frames) is decoded from beginning to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from clipcap_video.video.damage import Damage, bytes_missing
from clipcap_video.video.errors import SOUND, Count, Errors, Trouble, strictly, tolerantly
from clipcap_video.video.packets import (
    AVI,
    LONGEST_STEP,
    MATROSKA,
    NO_STAMP,
    SEEKABLE,
    FrameTimes,
    PacketIndex,
    Unseekable,
    in_order,
    sorted_stamps,
)
from clipcap_video.video.picture import PictureMaker, matrix_of, mirror_of
from clipcap_video.video.places import at_hand
from clipcap_video.video.source import Source

# Which decoder made features, as their header says.
DECODER = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
# Seconds: decoding from the middle of a file begins this much before the time that is asked for.
ENTRY_MARGIN = 1.0


class Frame:
    """A decoded frame. time: seconds from the first frame of the video. number: its place among those that decode.

    state: DAMAGED where it was decoded with errors; DOUBTFUL from there to the next key frame, for it may refer to a
    damaged one; else SOUND.
    """

    __slots__ = ("_after", "_before", "_maker", "_raw", "number", "state", "time")

    def __init__(self, raw: Any, number: int, time: float, state: int, maker: PictureMaker) -> None:
        self.number = number
        self.time = time
        self.state = state
        self._raw = raw
        self._before: Any = None
        self._after: Any = None
        self._maker = maker

    @property
    def raw(self) -> Any:
        """As PyAV gives it."""
        return self._raw

    @property
    def interlaced(self) -> bool:
        return bool(self._raw.interlaced_frame)

    @property
    def matrix(self) -> tuple[int, ...] | None:
        """The display matrix, nine numbers; None for an upright frame."""
        return matrix_of(self._raw)

    def picture(self, longest: int | None = None) -> np.ndarray | None:
        """As players show it: uint8 RGB [H, W, 3]; None where FFmpeg cannot convert it.

        longest: scaled down to so many pixels on its longest side, if it is larger.
        """
        maker = self._maker if longest is None else self._maker.small(longest)
        try:
            return maker.picture(self._raw, self._before, self._after)
        except (av.FFmpegError, ValueError):
            return None


class Decoder:
    """An open video; a context manager.

    A pass over a sound video is strict: the codec stops at the least error. At the first one, the whole video is
    surveyed for errors, and a tolerant pass, which conceals them as players do, continues from there.

    threads: of the codec; 0 leaves it to the codec. plain: see PictureMaker.
    Raises VideoError when the file is missing, empty or no video.
    """

    def __init__(self, path: Path, threads: int = 0, plain: bool = False) -> None:
        with ExitStack() as stack:
            path = stack.enter_context(at_hand(path))
            self._source = Source(path, threads)
            self._at_hand = stack.pop_all()
        self.path = path
        mirror = mirror_of(path) if self._source.is_picture else None
        self.maker = PictureMaker(self._source.aspect, threads, plain, mirror)
        self._fresh = True
        self._count = Count()
        self._errors: Errors | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._source.close()
        self._at_hand.__exit__(*exc)

    @property
    def source(self) -> Source:
        return self._source

    @property
    def rate(self) -> float:
        """Frames per second according to the header."""
        return self._source.rate

    @property
    def duration(self) -> float:
        """Seconds according to the header; 0 where it says nothing."""
        return self._source.duration

    @property
    def likely(self) -> int:
        """How many frames will probably decode; 0 where nothing tells."""
        return len(self._source.table.stamps) - self._source.table.hidden

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        """Frames in the order of showing. start: seconds; where the packets tell, most of what comes before it is
        skipped without being decoded. Iterate to the end for `damage`."""
        entry = self._entry(start) if start > ENTRY_MARGIN else None
        given, last = 0, -1.0
        if not self._suspicious:
            try:
                for frame in self._pass(entry, strict=True):
                    given, last = given + 1, frame.time
                    yield frame
                return
            except Trouble:
                pass
        self._errors = self._errors or self._survey()
        for frame in self._pass(None, strict=False):
            if frame.number >= given if entry is None else frame.time > last:
                yield frame

    @property
    def _suspicious(self) -> bool:
        table = self._source.table
        return bool(self._errors or table.corrupt or table.gaps)

    def begin(self, strict: bool, threads: int | None = None, rewind: bool = True) -> Any:
        """The codec in a state that has seen nothing, and with `rewind` the file at its beginning.

        strict: the codec stops at the least error.
        """
        if not self._fresh or (rewind and self._source.table.packets is None):
            self._source.again()
        self._fresh = False
        context = self._source.context
        if strict:
            context.options = {"err_detect": "explode"}
        if threads is not None:
            context.thread_count = threads
        return context

    def _survey(self) -> Errors:
        """All errors of the video, each at its packet, as a single thread meets them."""
        context = self.begin(strict=True, threads=1)
        errors = Errors()
        for packet in self._source.packets():
            errors.look(context, packet)
        errors.look(context, None)
        return errors

    def _pass(self, entry: tuple[int, int] | None, strict: bool) -> Iterator[Frame]:
        """Frames with their neighbours. Raises Trouble at the first error of a strict pass."""
        held: Frame | None = None
        before = None
        for frame in self._timed(entry, strict):
            if held is not None:
                held._after = frame._raw
                yield held
                held = None
            # The fields of an interlaced frame are completed from the frames around it.
            if frame._raw.interlaced_frame:
                frame._before = before
                held = frame
            else:
                yield frame
            before = frame._raw
        if held is not None:
            yield held

    def _timed(self, entry: tuple[int, int] | None, strict: bool) -> Iterator[Frame]:
        context = self.begin(strict, rewind=entry is None)
        source = self._source
        self._count = Count()
        times = FrameTimes(source.unit, source.rate, source.restarts)
        if entry is None:
            decoded = _decoded(context, source.packets(), strict)
        else:
            first, stamp = entry
            times(first)
            self._count.whole = False
            # What is shown before a key frame and stored behind it refers to frames before the key frame.
            decoded = (raw for raw in _decoded(context, source.packets(stamp), strict) if (raw.pts or first) >= stamp)
        stamped: Iterator[tuple[Any, int | None]] = ((raw, raw.pts) for raw in decoded)
        if self.reorders_by_decoding_times:
            stamped = sorted_stamps(stamped)
        elif not strict:
            stamped = in_order(stamped, round(LONGEST_STEP / source.unit))
        errors, table = self._errors or Errors(), source.table
        bad, suspects = errors.stamps, errors.stamps | table.corrupt | table.gaps
        for number, (raw, shown_stamp) in enumerate(stamped):
            state = SOUND if strict else self._count.state(raw, bad, suspects)
            time = times(shown_stamp)
            self._count.times.append(time)
            yield Frame(raw, number, time, state, self.maker)

    @property
    def reorders_by_decoding_times(self) -> bool:
        """Whether the file tells when frames are decoded and not when they are shown: AVI, and what was made of it."""
        source = self._source
        return bool(source.context.has_b_frames) and (source.format == AVI or source.table.tell_decoding)

    def index(self) -> PacketIndex:
        """What the packets tell of the frames. Raises Unseekable where they do not tell all."""
        source, table = self._source, self._source.table
        if not source.is_indexed or source.codec not in SEEKABLE or self.reorders_by_decoding_times:
            raise Unseekable
        if (table.stamps == NO_STAMP).any() or table.hidden or table.corrupt or table.gaps:
            raise Unseekable
        if source.promised > len(table.stamps) or bytes_missing(self.path):
            raise Unseekable
        return PacketIndex(table.stamps, table.keys, source.unit, source.rate)

    def _entry(self, start: float) -> tuple[int, int] | None:
        """The stamps of the first frame and of the last key frame a little before `start`; None: no way in."""
        try:
            index = self.index()
        except Unseekable:
            return None
        keys = index.key_frames
        place = int(np.searchsorted(index.seconds[keys], start - ENTRY_MARGIN, side="right")) - 1
        ordered = index.stamps[index.order]
        return (int(ordered[0]), int(ordered[keys[place]])) if place > 0 else None

    @property
    def damage(self) -> Damage:
        """What was found in the last iteration, final when that has reached its end."""
        source, count = self._source, self._count
        cut = bool(bytes_missing(self.path))
        if not count.whole and self._errors is None:
            return Damage(len(count.times), truncated=cut, whole=False)
        errors = self._errors or Errors()
        decoded, times = len(count.times), np.asarray(count.times)
        missing = max(count.missing_in_gaps(times), len(errors.stamps - count.stamps))
        if source.promised and source.is_indexed:
            absent = source.promised - len(source.table.stamps) - source.table.empty
            # Encoders miscount by one or two.
            missing += absent if absent > 1 + 0.01 * source.promised else 0
        elif cut and source.format == MATROSKA and decoded:
            missing = max(missing, round((source.duration - float(times[-1])) * source.rate) - 1)
        missing = max(0, missing)
        return Damage(decoded + missing, count.corrupt, missing, errors.number, cut)


def _decoded(context: Any, packets: Iterator[Any], strict: bool) -> Iterator[Any]:
    """Frames as a codec gives them. Raises Trouble at the first error of a strict pass."""
    decode = strictly if strict else tolerantly
    for packet in packets:
        yield from decode(context, packet)
    yield from decode(context, None)


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
