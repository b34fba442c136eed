"""Sampled frames of a video file, with their true times.

Where a file's packets tell its frames, only what is needed is decoded (`seeking.py`); in other files every frame is,
but only kept ones become pictures. They go through a `transform` a few at a time, so that full-size frames never pile
up. Counts and times that a file's header promises are taken as a guess and checked against what decodes.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from clipcap_video.errors import VideoError
from clipcap_video.video.damage import MAX_DAMAGE, Damage
from clipcap_video.video.decoder import Decoder, Frame, IndexedVideo
from clipcap_video.video.errors import DAMAGED
from clipcap_video.video.files import shown
from clipcap_video.video.packets import Unseekable
from clipcap_video.video.sampling import TIME_TOLERANCE, FrameClock, SamplingSpec, Span, choose, to_sound

Transform = Callable[[Tensor], Tensor]
T = TypeVar("T")

# Annotated times are rounded, and may lie a little beyond the last frame (seconds).
MOST_BEYOND = 1.0
# Full-size pixels that wait for the transform at a time; a single picture may have more.
MOST_WAITING = 2**26


@dataclass(frozen=True)
class FrameChunk:
    """A few consecutive kept frames.

    indices: int64 [n], positions among the frames that decode.
    timestamps: float64 [n], seconds since the first frame.
    images: what the transform made of the frames, uint8 [n, 3, S, S].
    """

    indices: np.ndarray
    timestamps: np.ndarray
    images: Tensor


def judge_damage(path: Path, damage: Damage, most: float) -> str | None:
    """None for a sound video, else a sentence. Raises VideoError where more than the share `most` is damaged."""
    if damage.share > most:
        raise VideoError(
            f"{shown(path)}: {damage}, more than the {most:.4g} of --max_damage; fetch the file again or allow more"
        )
    return str(damage) if damage else None


class SampledVideo:
    """The frames of a video that `spec` keeps, in order, in FrameChunks of at most `chunk`; iterate once.

    transform: uint8 RGB [n, 3, H, W] -> uint8 [n, 3, S, S], n at most `chunk`. Under `fps` without max_frames
        and under `head` chunks come while the video is being decoded; otherwise at its end, with at most the
        kept images and those of a wrong first guess in memory.
    stop: looked at before every frame; once set, the iteration ends early.
    span: keep frames of this part of the video only, as if it were all. Times stay those in the video.
    threads: of the codec; 0 leaves it to the codec.
    max_damage: the largest share of damaged frames with which the video is used. Kept frames are sound ones where
        there are some near.
    damage: what was found, and warning: None, or one sentence about it; both final when the iteration has ended.

    Iterating raises VideoError when the file cannot be read, not one frame of it decodes or too many are damaged.
    """

    def __init__(
        self,
        path: str | Path,
        spec: SamplingSpec,
        transform: Transform,
        chunk: int = 8,
        stop: threading.Event | None = None,
        span: Span | None = None,
        threads: int = 0,
        max_damage: float = MAX_DAMAGE,
    ) -> None:
        self.path = Path(path)
        self.spec = spec
        self.span = span
        self.transform = transform
        self.chunk = chunk
        self.max_damage = max_damage
        self.damage = Damage()
        self.warning: str | None = None
        self._stop = stop or threading.Event()
        self._threads = threads

    def __iter__(self) -> Iterator[FrameChunk]:
        try:
            yield from self._chunks()
        except (av.FFmpegError, cv2.error) as error:
            message = " ".join(str(error).split())
            raise VideoError(f"{shown(self.path)} cannot be decoded ({message}); re-encode or remove it") from error

    def _chunks(self) -> Iterator[FrameChunk]:
        kept = 0
        with Decoder(self.path, self._threads, plain=self.spec.sampling == "reference") as decoder:
            online = self.spec.decided_online and self.span is None
            for chunk in self._online(decoder) if online else self._planned(decoder):
                kept += len(chunk.indices)
                yield chunk
            if kept == 0 and not self._stop.is_set():
                errors = decoder.damage.errors
                figure = f" ({errors} decoder error{'' if errors == 1 else 's'})" if errors else ""
                raise VideoError(f"not one frame of {shown(self.path)} decodes{figure}; re-encode, fetch or remove it")

    def _judge(self, decoder: Decoder) -> None:
        self.damage = decoder.damage
        if self.damage.frames > self.damage.missing:  # otherwise nothing decodes, which is said instead
            self.warning = judge_damage(self.path, self.damage, self.max_damage)

    def _online(self, decoder: Decoder) -> Iterator[FrameChunk]:
        """Gives chunks as they are decoded: of the chosen frames alone where the packets tell, else of all."""
        last = -1
        try:
            video = IndexedVideo(decoder)
            timestamps = video.index.seconds
            pending = _Pending(self.transform, self.chunk)
            for index, frame in video.frames(choose(self.spec, timestamps).tolist()):
                if self._stop.is_set():
                    return
                for chunk in pending.add(index, timestamps[index], frame):
                    yield chunk
                    last = int(chunk.indices[-1])
            yield from pending.flush()
            self.damage = Damage(len(timestamps), whole=video.decoded == len(timestamps))
        except Unseekable:
            yield from self._online_walk(decoder, last)

    def _online_walk(self, decoder: Decoder, last: int) -> Iterator[FrameChunk]:
        """The same by decoding everything. last: the last frame that was given before."""
        clock = FrameClock(self.spec.fps)
        most = self.spec.frames if self.spec.sampling == "head" else None
        pending = _Pending(self.transform, self.chunk)
        kept = 0
        due = False
        passed: Frame | None = None
        for frame in decoder:
            if self._stop.is_set():
                return
            due = clock.is_base(frame.time) or due
            if not due:
                continue
            if frame.state == DAMAGED:  # the next sound frame stands in for it
                passed = frame
                continue
            if frame.number > last:
                if (picture := frame.picture()) is None:
                    continue
                yield from pending.add(frame.number, frame.time, picture)
            due = False
            kept += 1
            if kept == most:
                break
        else:
            self._judge(decoder)
            if kept == 0 and passed is not None and (picture := passed.picture()) is not None:
                yield from pending.add(passed.number, passed.time, picture)
        yield from pending.flush()

    def _planned(self, decoder: Decoder) -> Iterator[FrameChunk]:
        """Keeps what the packets make likely, then decodes again only if the true times choose otherwise."""
        images: dict[int, Tensor] = {}
        timestamps = self._pick(decoder, images)
        if timestamps is None:
            images.clear()
            timestamps = self._walk(decoder, images)
        kept = sorted(images)
        for start in range(0, len(kept), self.chunk):
            if self._stop.is_set():
                return
            part = np.asarray(kept[start : start + self.chunk], dtype=np.int64)
            stacked = torch.stack([images.pop(index) for index in part.tolist()])
            yield FrameChunk(part, timestamps[part], stacked)

    def _pick(self, decoder: Decoder, images: dict[int, Tensor]) -> np.ndarray | None:
        """Puts the chosen frames' images into `images`; the times of all frames. None: packets do not tell."""
        pending = _Pending(self.transform, self.chunk)
        try:
            video = IndexedVideo(decoder)
            timestamps = video.index.seconds
            self._check_span(timestamps)
            chosen = choose(self.spec, timestamps, self.span, video.index.key_frames)
            for index, frame in video.frames(chosen.tolist()):
                if self._stop.is_set():
                    return timestamps
                images.update(_by_index(pending.add(index, timestamps[index], frame)))
        except Unseekable:
            return None
        images.update(_by_index(pending.flush()))
        self.damage = Damage(len(timestamps), whole=video.decoded == len(timestamps))
        return timestamps

    def _walk(self, decoder: Decoder, images: dict[int, Tensor]) -> np.ndarray:
        """The same by decoding from beginning to end; which frames are key frames is not asked then."""
        plan = choose(self.spec, np.arange(decoder.likely) / decoder.rate, self.span)
        times, states = self._collect(decoder, set(plan.tolist()), images)
        timestamps = np.asarray(times, dtype=np.float64)
        if self._stop.is_set():
            return timestamps
        self._judge(decoder)
        self._check_span(timestamps)
        chosen = set(to_sound(choose(self.spec, timestamps, self.span), np.frombuffer(states, dtype=np.uint8)).tolist())
        # Planned frames that came but are not in `images` cannot be shown; a second try would not help.
        missing = chosen - set(plan.tolist())
        for index in images.keys() - chosen:
            del images[index]
        if missing:
            self._collect(decoder, missing, images, last=max(missing))
        return timestamps

    def _collect(
        self, decoder: Decoder, wanted: set[int], images: dict[int, Tensor], last: int | None = None
    ) -> tuple[array[float], bytearray]:
        """Puts the wanted frames' images into `images`; times and states of all frames up to `last` (or the end).

        With a span, the end is the first frame after it.
        """
        pending = _Pending(self.transform, self.chunk)
        times, states = array("d"), bytearray()
        for frame in decoder:
            if self._stop.is_set():
                return times, states
            times.append(frame.time)
            states.append(frame.state)
            if frame.number in wanted and (picture := frame.picture()) is not None:
                images.update(_by_index(pending.add(frame.number, frame.time, picture)))
            # One frame past the end of the part shows that all of it has come.
            if frame.number == last or (self.span is not None and frame.time >= self.span.end):
                break
        images.update(_by_index(pending.flush()))
        return times, states

    def _check_span(self, timestamps: np.ndarray) -> None:
        if self.span is not None and len(timestamps) and timestamps[-1] < self.span.start - MOST_BEYOND:
            raise VideoError(
                f"{shown(self.path)} ends at {timestamps[-1]:.1f} s, before its segment {self.span.start:.1f}-"
                f"{self.span.end:.1f} s; check that the file is the whole video"
            )


def _by_index(chunks: Iterator[FrameChunk]) -> Iterator[tuple[int, Tensor]]:
    for chunk in chunks:
        yield from zip(chunk.indices.tolist(), chunk.images, strict=True)


class _Pending:
    """Full-size frames that wait for the transform: at most `chunk` and MOST_WAITING pixels, all of one size."""

    def __init__(self, transform: Transform, chunk: int) -> None:
        self._transform = transform
        self._chunk = chunk
        self._frames: list[np.ndarray] = []
        self._indices: list[int] = []
        self._times: list[float] = []

    def add(self, index: int, time: float, frame: np.ndarray) -> Iterator[FrameChunk]:
        if self._frames and self._frames[0].shape != frame.shape:
            yield from self.flush()
        self._frames.append(frame)
        self._indices.append(index)
        self._times.append(time)
        if len(self._frames) >= min(self._chunk, max(1, MOST_WAITING * 3 // frame.size)):
            yield from self.flush()

    def flush(self) -> Iterator[FrameChunk]:
        if not self._frames:
            return
        frames = torch.from_numpy(np.stack(self._frames)).permute(0, 3, 1, 2)  # [n, 3, H, W]
        indices = np.asarray(self._indices, dtype=np.int64)
        times = np.asarray(self._times, dtype=np.float64)
        self._frames, self._indices, self._times = [], [], []
        images = self._transform(frames)
        del frames  # the consumer may hold this generator for long
        yield FrameChunk(indices, times, images)


def read_frames(path: str | Path, spec: SamplingSpec, max_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The frames that `spec` keeps, to look at: uint8 RGB [T, H, W, 3], timestamps float32 [T] in seconds.

    max_side: frames whose longer side has more pixels are shrunk to it; the aspect stays. A video whose
    frames change size is scaled to the first kept one. Raises VideoError when the file cannot be read.
    """
    size: list[int] = []  # width, height

    def shrink(frames: Tensor) -> Tensor:
        if not size:
            height, width = frames.shape[2:]
            scale = 1.0 if max_side is None else min(1.0, max_side / max(height, width))
            size.extend((max(1, round(width * scale)), max(1, round(height * scale))))
        images = frames.permute(0, 2, 3, 1).numpy()
        if images.shape[1:3] != (size[1], size[0]):
            images = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    chunks = list(SampledVideo(path, spec, shrink, max_damage=1.0))
    frames = torch.cat([chunk.images for chunk in chunks]).permute(0, 2, 3, 1).contiguous().numpy()
    return frames, np.concatenate([chunk.timestamps for chunk in chunks]).astype(np.float32)


def read_frames_at(path: str | Path, times: Sequence[float], look: Callable[[np.ndarray], T]) -> list[T | None]:
    """What `look` makes of the frames of a video that were sampled at `times` (seconds, ascending).

    look: is given a frame, uint8 RGB [H, W, 3], while the video is read, so full-size frames never pile up.
    A time is met by the first frame that is not earlier, to within a millisecond. None stands for a frame that cannot
    be decoded, or a time beyond the end. Raises VideoError when the file cannot be read.
    """
    seen: list[T | None] = []
    with Decoder(Path(path)) as decoder:
        for frame in decoder.frames(times[0] if len(times) else 0.0):
            image = None
            while len(seen) < len(times) and frame.time >= times[len(seen)] - TIME_TOLERANCE:
                image = frame.picture() if image is None else image
                seen.append(None if image is None else look(image))
                if len(seen) < len(times) and times[len(seen)] == times[len(seen) - 1]:
                    break  # the next frame has the same time
            if len(seen) == len(times):
                break
    return seen + [None] * (len(times) - len(seen))


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keeps OpenCV from splitting one frame's conversion over cores while whole videos run in parallel."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
