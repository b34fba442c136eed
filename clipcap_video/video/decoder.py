"""The only decoder: a video from beginning to end, or from a time on, with the true time of each frame.

Times are those that the file gives its frames, counted from the first. Damage is counted on the way.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from clipcap_video.video.clock import FrameTimes, sorted_stamps
from clipcap_video.video.damage import Damage, bytes_missing
from clipcap_video.video.packets import NO_STAMP, SEEKABLE, UNCOUNTED, PacketIndex, Unseekable
from clipcap_video.video.picture import PictureMaker
from clipcap_video.video.source import MATROSKA, Source

# Which decoder made features, as their header says.
DECODER = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
SOUND, DOUBTFUL, DAMAGED = range(3)
# Seconds: decoding from the middle of a file begins this much before the time that is asked for.
ENTRY_MARGIN = 1.0
# Frames after a decoder's error in which a gap may be of its making.
TROUBLE_FRAMES = 20
# A step between frames that is so many times the usual one is a gap.
GAP = 1.5


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

    def picture(self) -> np.ndarray | None:
        """As players show it: uint8 RGB [H, W, 3]; None where FFmpeg cannot convert it."""
        try:
            return self._maker.picture(self._raw, self._before, self._after)
        except (av.FFmpegError, ValueError):
            return None


class Decoder:
    """An open video; a context manager.

    threads: of the codec; 0 leaves it to the codec. plain: see PictureMaker.
    Raises VideoError when the file is missing, empty or no video.
    """

    def __init__(self, path: Path, threads: int = 0, plain: bool = False) -> None:
        self._source = Source(path, threads)
        self.path = path
        self.maker = PictureMaker(self._source.aspect, threads, plain)
        self._fresh = True
        self._count = _Count()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.close()

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
        held: Frame | None = None
        before = None
        for frame in self._timed(start):
            if held is not None:
                held._after = frame._raw
                yield held
                held = None
            frame._before = before
            before = frame._raw
            # The fields of an interlaced frame are completed from the frame behind it as well.
            if frame._raw.interlaced_frame:
                held = frame
            else:
                yield frame
        if held is not None:
            yield held

    def begin(self) -> None:
        """Makes sure that decoding starts at the beginning, with a decoder that has seen nothing."""
        if not self._fresh or self._source.table.packets is None:
            self._source.again()
        self._fresh = False

    def _timed(self, start: float) -> Iterator[Frame]:
        self.begin()
        source = self._source
        self._count = _Count()
        times = FrameTimes(source.unit, source.rate, source.restarts)
        entry = self._entry(start) if start > ENTRY_MARGIN else None
        if entry is None:
            stamped: Iterator[tuple[tuple[Any, int], int | None]] = (
                (pair, pair[0].pts) for pair in self._decoded(source.packets())
            )
        else:
            first, stamp = entry
            times(first)
            self._count.whole = False
            stamped = (
                (pair, pair[0].pts)
                for pair in self._decoded(source.packets(stamp))
                if pair[0].pts is not None and pair[0].pts >= stamp
            )
        if self.reorders_by_decoding_times:
            stamped = sorted_stamps(stamped)
        for number, ((raw, state), stamp_of_frame) in enumerate(stamped):
            time = times(stamp_of_frame)
            self._count.times.append(time)
            yield Frame(raw, number, time, state, self.maker)

    @property
    def reorders_by_decoding_times(self) -> bool:
        """Whether the file tells when frames are decoded and not when they are shown: AVI, and what was made of it."""
        return bool(self._source.context.has_b_frames) and self._source.table.tell_decoding

    def _decoded(self, packets: Iterator[Any]) -> Iterator[tuple[Any, int]]:
        """Frames and their states, in the order of showing, with damage counted."""
        context, count = self._source.context, self._count
        gaps = self._source.table.gaps
        for packet in packets:
            yield from count.states(_decode(context, packet, count), gaps)
        yield from count.states(_decode(context, None, count), gaps)

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
        decoded, times = len(count.times), np.asarray(count.times)
        cut = bool(bytes_missing(self.path))
        missing = count.missing_in_gaps(times)
        if source.codec not in UNCOUNTED and source.is_indexed and (count.errors or count.corrupt or cut):
            missing = max(missing, self.likely - decoded)
        if count.whole and source.promised and source.is_indexed:
            absent = source.promised - len(source.table.stamps) - source.table.empty
            # Encoders miscount by one or two.
            missing += absent if absent > 1 + 0.01 * source.promised else 0
        elif cut and source.format == MATROSKA and decoded:
            missing = max(missing, round((source.duration - float(times[-1])) * source.rate) - 1)
        missing = max(0, missing)
        return Damage(decoded + missing, count.corrupt, missing, count.errors, cut, count.whole)


class _Count:
    """What happens while a video is decoded."""

    def __init__(self) -> None:
        self.times = array("d")
        self.errors = 0
        self.corrupt = 0
        self.whole = True
        self._doubtful = False
        self._trouble = 0
        self._frames = 0
        self._troubled: list[int] = []  # frames that a gap of the decoder's making may precede

    def error(self) -> None:
        self.errors += 1
        self._doubtful = True
        self._trouble = TROUBLE_FRAMES

    def states(self, frames: list[Any], gaps: frozenset[int]) -> Iterator[tuple[Any, int]]:
        """Frames as they come out, each with its state. gaps: stamps of frames before which bytes are missing."""
        for frame in frames:
            if frame.pts in gaps:
                self._doubtful = True
                self._trouble = TROUBLE_FRAMES
            if frame.is_corrupt:
                self.corrupt += 1
                self._doubtful = True
                self._trouble = TROUBLE_FRAMES
                state = DAMAGED
            else:
                if frame.key_frame:
                    self._doubtful = False
                state = DOUBTFUL if self._doubtful else SOUND
            if self._trouble:
                self._trouble -= 1
                self._troubled.append(self._frames)
            self._frames += 1
            yield frame, state

    def missing_in_gaps(self, times: np.ndarray) -> int:
        """Frames missing where steps between `times` are long after trouble."""
        if len(times) < 3:
            return 0
        steps = np.diff(times)
        usual = float(np.median(steps))
        if usual <= 0:
            return 0
        looked = np.asarray(self._troubled, dtype=np.int64) - 1
        long = steps[looked[looked >= 0]]
        return int(np.round(long[long > GAP * usual] / usual - 1).sum())


def _decode(context: Any, packet: Any, count: _Count) -> list[Any]:
    """The frames that come out with a packet; None for the end."""
    try:
        return list(context.decode(packet))
    except av.EOFError:
        return []
    except (av.FFmpegError, ValueError):
        count.error()
        return []
