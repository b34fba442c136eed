"""A long video cut into segments, each with the frames that a captioner is to see, in one pass over the file."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipcap_video.devices import cores
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.video.damage import MAX_DAMAGE, Damage
from clipcap_video.video.decoder import Decoder, Frame
from clipcap_video.video.errors import DAMAGED
from clipcap_video.video.files import shown
from clipcap_video.video.reader import SampledVideo, Transform, judge_damage
from clipcap_video.video.sampling import TIME_TOLERANCE, FrameClock, SamplingSpec, choose

# Makes the picture of a frame, uint8 RGB [H, W, 3], which is only worth it for one that is kept; None: it cannot.
Picture = Callable[[], np.ndarray | None]
# Frames that are looked at, a second: every frame of usual videos, every second one of those for games and sport.
MOST_LOOKS = 30.0
# Pixels of decoded frames that wait, for each segment, until it is known which of them a captioner is to see.
MOST_WAITING = 2**26

SHORTEST = 0.1  # seconds of a segment: there are few frames in less


@dataclass(frozen=True)
class Segmentation:
    """How a video is cut. Lengths in seconds.

    kind: `shots` cuts where PySceneDetect sees a shot begin, `fixed` every `length`, `whole` not at all.
    shortest: shorter shots are joined with what follows them, a last one with what comes before it.
    longest: longer shots are split.

    Raises ClipcapError for values that make no sense.
    """

    kind: str = "shots"
    length: float = math.inf
    shortest: float = 2.0
    longest: float = 20.0

    def __post_init__(self) -> None:
        if not self.length >= SHORTEST:
            raise ClipcapError(f"segments cannot be {self.length:g} seconds long; give {SHORTEST:g} or more")
        if not 0 <= self.shortest < math.inf:
            raise ClipcapError(f"the shortest shot cannot be {self.shortest:g} seconds; give 0 or more")
        if not (self.longest > 0 and 2 * self.shortest <= self.longest):
            raise ClipcapError(
                f"the longest shot, {self.longest:g} seconds, must be at least twice the shortest, {self.shortest:g}"
            )

    @classmethod
    def parse(cls, text: str, shortest: float = 2.0, longest: float = 20.0) -> Segmentation:
        """From `shots`, `fixed:SECONDS` or `whole`, as the command line has it."""
        kind, colon, length = text.partition(":")
        if kind in ("shots", "whole") and not colon:
            return cls(kind, shortest=shortest, longest=longest)
        try:
            seconds = float(length) if kind == "fixed" else math.nan
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds):
            raise ClipcapError(f"unknown segments {text!r}; use shots, whole, or fixed:10 for every 10 seconds")
        return cls(kind, seconds, shortest, longest)

    def __str__(self) -> str:
        if self.kind == "shots":
            return f"shots of {self.shortest:g} to {self.longest:g} s"
        return f"fixed:{self.length:g}" if self.kind == "fixed" else self.kind


@dataclass(frozen=True)
class SegmentFrames:
    """start, end: seconds, to the millisecond; a segment ends where the next one starts.

    timestamps: float64 [n], seconds since the first frame of the video. images: uint8 [n, 3, S, S].
    """

    start: float
    end: float
    timestamps: np.ndarray
    images: Tensor


class SegmentedVideo:
    """The segments of a video file as SegmentFrames, in order; iterate once.

    spec: how a segment's frames are chosen, as if it were a video of its own. Without `spec.fps` they are chosen among
        some four times as many, so a segment's memory does not grow with its length; only `whole` chooses among all.
    transform: uint8 RGB [n, 3, H, W] -> uint8 [n, 3, S, S].
    start: seconds; what comes before is skipped. A segment should start there.
    stop: looked at before every frame; once set, the iteration ends early, without the segment that is under way.
    duration: seconds according to the file's header, and pixels of a frame, 0 where it says nothing.
    position: seconds read so far.
    max_damage, damage, warning: as of SampledVideo. Damaged frames are in no segment.

    Raises VideoError when the file is no video, and while iterating when not one frame of it decodes, or at the end
    when too many were damaged.
    """

    def __init__(
        self,
        path: Path,
        segmentation: Segmentation,
        spec: SamplingSpec,
        transform: Transform,
        start: float = 0.0,
        stop: threading.Event | None = None,
        max_damage: float = MAX_DAMAGE,
    ) -> None:
        self.path = path
        self.max_damage = max_damage
        self.damage = Damage()
        self.segmentation = segmentation
        self.spec = spec
        self.transform = transform
        self.start = start
        self.warning: str | None = None
        self.position = start
        self._stop = stop or threading.Event()
        with Decoder(path) as decoder:
            self.duration = decoder.duration
            self.pixels = decoder.source.context.width * decoder.source.context.height

    def __iter__(self) -> Iterator[SegmentFrames]:
        return self._whole() if self.segmentation.kind == "whole" else self._as_whole_if_alone(self._cut())

    def _as_whole_if_alone(self, segments: Iterator[SegmentFrames]) -> Iterator[SegmentFrames]:
        """The segments; a video that has one alone is sampled as a whole one, so that its caption is the same."""
        first = next(segments, None)
        if first is None:
            return
        try:
            second = next(segments, None)
        except VideoError:
            yield first
            raise
        if second is None and self.start == 0 and not self._stop.is_set():
            yield from (replace(whole, end=first.end) for whole in self._whole())
            return
        yield first
        if second is not None:
            yield second
        yield from segments

    def _whole(self) -> Iterator[SegmentFrames]:
        video = SampledVideo(self.path, self.spec, self.transform, stop=self._stop, max_damage=self.max_damage)
        chunks = list(video)
        if self._stop.is_set():
            return
        self.damage, self.warning = video.damage, video.warning
        times = np.concatenate([chunk.timestamps for chunk in chunks])
        end = max(self.duration, float(times[-1]) + TIME_TOLERANCE)
        yield SegmentFrames(0.0, round(end, 3), times, torch.cat([chunk.images for chunk in chunks]))

    def _cut(self) -> Iterator[SegmentFrames]:
        waiting = MOST_WAITING // max(self.pixels, 1)
        builder = SegmentBuilder(self.segmentation, self.spec, self.transform, self.start, waiting)
        last = None
        # Of two cores, one is for what captions the segments: threads of a codec that wait cost a tenth of its time.
        with Decoder(self.path, threads=1 if cores() <= 2 else 0) as decoder:
            for frame, is_cut in self._looks(decoder):
                yield from builder.add(frame.time, frame.picture, is_cut)
                last = frame.time
            if self._stop.is_set():
                return
            self.damage = decoder.damage
            if last is not None:
                yield from builder.finish(max(self.position, last) + 1 / decoder.rate)
                self.warning = judge_damage(self.path, self.damage, self.max_damage)
            elif self.start == 0:
                raise VideoError(f"not one frame of {shown(self.path)} decodes; re-encode, fetch or remove it")

    def _looks(self, decoder: Decoder) -> Iterator[tuple[Frame, bool]]:
        from clipcap_video.video.shots import ShotDetector

        detector = ShotDetector() if self.segmentation.kind == "shots" else None
        clock = FrameClock(MOST_LOOKS)
        for frame in decoder.frames(self.start):
            if self._stop.is_set():
                return
            if frame.time < self.start - TIME_TOLERANCE:
                continue
            self.position = frame.time
            if frame.state == DAMAGED or not clock.is_base(frame.time):
                continue
            if detector is None:
                yield frame, False
            else:
                yield from detector.add(frame)
        if detector is not None:
            yield from detector.flush()


class SegmentBuilder:
    """Puts frames, as they come, into segments that follow a Segmentation. Knows nothing of files.

    waiting: how many frames of a segment may wait as they were decoded; of more, the pictures are made at once.
    """

    def __init__(
        self, segmentation: Segmentation, spec: SamplingSpec, transform: Transform, start: float = 0.0, waiting: int = 0
    ) -> None:
        self._segmentation = segmentation
        self._spec = spec
        self._transform = transform
        self._waiting = waiting
        self._open = self._part(start)
        self._held: tuple[_Part, float] | None = None  # a part and its end, until what follows is long enough
        shortest = segmentation.shortest
        self._shortest = min(shortest, segmentation.length / 2)
        self._longest = segmentation.longest if segmentation.kind == "shots" else math.inf

    def add(self, time: float, picture: Picture, is_cut: bool) -> Iterator[SegmentFrames]:
        """Takes the frame at `time`, with which a shot begins if `is_cut`."""
        length = time - self._open.start + TIME_TOLERANCE
        if self._segmentation.kind == "fixed":
            if length >= self._segmentation.length:
                steps = math.floor(length / self._segmentation.length)
                yield from self._close(self._open.start + steps * self._segmentation.length)
        elif is_cut and length >= self._shortest:
            yield from self._close(time)
        elif length >= 2 * self._longest:
            yield from self._release()
            yield from self._split(self._open.start + self._longest)
        if time - self._open.start >= self._shortest:
            yield from self._release()
        self._open.add(time, picture)

    def finish(self, end: float) -> Iterator[SegmentFrames]:
        """The last segments of a video that ends at `end`."""
        if not self._open.times:
            if self._held is not None:
                self._held = self._held[0], end
        elif self._held is not None and end - self._open.start < self._shortest:
            self._held[0].absorb(self._open)
            self._held = self._held[0], end
        else:
            yield from self._close(end)
        yield from self._release()

    def _part(self, start: float) -> _Part:
        return _Part(start, self._spec, self._transform, self._waiting)

    def _close(self, end: float) -> Iterator[SegmentFrames]:
        """Ends the open part, if it has frames; a part without any (the picture stands still) is joined on."""
        if not self._open.times:
            if self._held is not None:
                self._held = self._held[0], end
            self._open = self._part(end)
            return
        yield from self._release()
        self._open.close()
        length = end - self._open.start
        if length > self._longest:
            yield from self._split(self._open.start + length / 2)
        self._held = self._open, end
        self._open = self._part(end)

    def _split(self, middle: float) -> Iterator[SegmentFrames]:
        """Gives the open part up to the frame nearest to `middle`; the rest stays open."""
        rest = self._open.split(middle)
        if rest is not None:
            yield from self._open.segment(rest.start)
            self._open = rest

    def _release(self) -> Iterator[SegmentFrames]:
        if self._held is not None:
            part, end = self._held
            self._held = None
            yield from part.segment(end)


class _Part:
    """The frames of one segment among which its captioner's are chosen: all that `spec` could want, thinned.

    Most of them are never chosen, so they wait as they were decoded, `waiting` at most.
    """

    def __init__(self, start: float, spec: SamplingSpec, transform: Transform, waiting: int) -> None:
        self.start = start
        self.times: list[float] = []
        self._frames: list[Picture | Tensor] = []  # [3, S, S] once it is made
        self._spec = spec
        self._transform = transform
        self._waiting = waiting
        self._clock = FrameClock(spec.fps)
        self._most = 4 * spec.frames if spec.fps is None and spec.frames else math.inf
        self._stride = 1
        self._count = 0
        self._last: tuple[float, Picture] | None = None

    def add(self, time: float, picture: Picture) -> None:
        if not self._clock.is_base(time - self.start):
            return
        self._last = time, picture
        if self._count % self._stride == 0:
            self._keep(time, picture)
        self._count += 1

    def _keep(self, time: float, picture: Picture) -> None:
        self.times.append(time)
        self._frames.append(picture)
        while len(self.times) > self._most:
            self.times, self._frames = self.times[::2], self._frames[::2]
            self._stride *= 2
        if sum(not isinstance(frame, Tensor) for frame in self._frames) > self._waiting:
            self._make(range(len(self._frames)))

    def _make(self, chosen: Iterable[int]) -> bool:
        """Makes the pictures of the `chosen` frames; those that cannot be made go. Whether all could."""
        gone = set()
        for index in chosen:
            frame = self._frames[index]
            if isinstance(frame, Tensor):
                continue
            picture = frame()
            if picture is None:
                gone.add(index)
                continue
            pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]  # [1, 3, H, W]
            self._frames[index] = self._transform(pixels)[0].clone()  # a crop would hold on to all of the picture
        for index in sorted(gone, reverse=True):
            del self.times[index], self._frames[index]
        return not gone

    def close(self) -> None:
        """Makes sure that the last frame is among those to choose from."""
        if self._last is not None and (not self.times or self.times[-1] < self._last[0]):
            self._most = math.inf
            self._keep(*self._last)
        self._last = None

    def split(self, middle: float) -> _Part | None:
        """Cuts off the frames from the one nearest to `middle` on; None where there are too few."""
        cut = int(np.abs(np.asarray(self.times) - middle).argmin()) if self.times else 0
        if cut == 0:
            return None
        rest = _Part(self.times[cut], self._spec, self._transform, self._waiting)
        rest.times, self.times = self.times[cut:], self.times[:cut]
        rest._frames, self._frames = self._frames[cut:], self._frames[:cut]
        rest._stride, rest._last = self._stride, self._last
        self._last = None
        for time in rest.times:
            rest._clock.is_base(time - rest.start)
        return rest

    def absorb(self, other: _Part) -> None:
        """Adds the frames of the part that follows."""
        other.close()
        stride = max(self._stride, other._stride)
        for part in (self, other):  # so that the frames to choose from stay evenly spread
            step = stride // part._stride
            part.times, part._frames = part.times[::step], part._frames[::step]
        self.times += other.times
        self._frames += other._frames

    def segment(self, end: float) -> Iterator[SegmentFrames]:
        """What the captioner is to see; nothing where not one frame's picture can be made."""
        while self.times:
            times = np.asarray(self.times, dtype=np.float64)
            chosen = choose(self._spec, times - self.start).tolist()
            if self._make(chosen):
                images = torch.stack([self._frames[index] for index in chosen])
                yield SegmentFrames(round(self.start, 3), round(end, 3), times[chosen], images)
                return
