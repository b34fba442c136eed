"""From video files to frame features: threads decode into bounded queues, the main thread encodes across videos.

Frames of several videos share a batch, and batches are the same in every run over the same videos. A run that
resumes forms other batches; a frame's features depend on them only through the rounding of matrix products.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipcap_video.devices import cores, one_thread_each
from clipcap_video.encoders import load_encoder
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.stopping import break_off_if_stopped
from clipcap_video.video.damage import MAX_DAMAGE, Damage
from clipcap_video.video.reader import FrameChunk, SampledVideo, Transform, one_opencv_thread
from clipcap_video.video.sampling import SamplingSpec, Span, middle_frames

CHUNK_FRAMES = 8
# A usual video (28 frames, or a minute at 1 a second) fits its queue, and its thread can take the next.
QUEUED_CHUNKS = 8
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class VideoEnd:
    """After a video's last chunk. warning, damage: see SampledVideo."""

    warning: str | None
    damage: Damage


@dataclass(frozen=True)
class _Crash:
    error: BaseException


class _Stopped(Exception):
    """The consumer has gone; a thread that meets this ends."""


Event = FrameChunk | VideoEnd | VideoError


class DecodeAhead:
    """Iterating gives (video id, event): all events of the first video, then of the second, and so on.

    A video's events are its FrameChunks, then a VideoEnd, or a VideoError where it cannot be read (any more).
    Which thread decodes what has no influence on the order. At most `workers + 2` videos are under way, each
    with at most QUEUED_CHUNKS chunks of CHUNK_FRAMES transformed frames waiting.

    spans: the part to read of those videos (by id) that are not read whole. max_damage: see SampledVideo.
    transform runs in the threads. An exception in a thread other than VideoError is raised to the consumer
    when it reaches that video. Use it as a context manager: leaving it stops the threads.
    """

    def __init__(
        self,
        videos: dict[str, Path],
        spec: SamplingSpec,
        transform: Transform,
        workers: int,
        spans: Mapping[str, Span] | None = None,
        max_damage: float = MAX_DAMAGE,
    ) -> None:
        self._videos = list(videos.items())
        self._spans = spans or {}
        self._spec = spec
        self._transform = transform
        self._max_damage = max_damage
        self._codec_threads = max(1, cores() // max(1, min(workers, len(self._videos))))
        self._stop = threading.Event()
        self._under_way = threading.Semaphore(workers + 2)
        self._claiming = threading.Lock()
        self._unclaimed = iter(range(len(self._videos)))
        self._slots: dict[int, queue.Queue[Event | _Crash]] = {}
        self._slots_lock = threading.Lock()
        # Daemons, so that a decoder stuck in a damaged file cannot keep the process alive.
        self._threads = [
            threading.Thread(target=self._work, name=f"decode-{number}", daemon=True)
            for number in range(min(workers, len(self._videos)))
        ]
        self._settings = ExitStack()

    def __enter__(self) -> DecodeAhead:
        self._settings.enter_context(one_opencv_thread())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._settings.close()

    def __iter__(self) -> Iterator[tuple[str, Event]]:
        for number, (video_id, _) in enumerate(self._videos):
            slot = self._slot(number)
            while True:
                event = self._next(slot)
                if isinstance(event, _Crash):
                    raise event.error
                yield video_id, event
                if not isinstance(event, FrameChunk):
                    break
            with self._slots_lock:
                del self._slots[number]
            self._under_way.release()

    def _next(self, slot: queue.Queue[Event | _Crash]) -> Event | _Crash:
        # With a timeout, so that Ctrl-C is noticed on every system and dead threads cannot hang the run.
        while True:
            alive = any(thread.is_alive() for thread in self._threads)
            try:
                return slot.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not alive:
                    raise RuntimeError("the decoding threads died without a word") from None

    def _slot(self, number: int) -> queue.Queue[Event | _Crash]:
        with self._slots_lock:
            return self._slots.setdefault(number, queue.Queue(QUEUED_CHUNKS))

    def _claim(self) -> int | None:
        """The next video that nobody has; waits until fewer than the most allowed are under way."""
        with self._claiming:  # held while waiting, so that videos are claimed in order
            while not self._under_way.acquire(timeout=POLL_SECONDS):
                if self._stop.is_set():
                    return None
            return next(self._unclaimed, None)

    def _work(self) -> None:
        one_thread_each()
        while not self._stop.is_set() and (number := self._claim()) is not None:
            slot = self._slot(number)
            video_id, path = self._videos[number]
            span = self._spans.get(video_id)
            video = SampledVideo(
                path, self._spec, self._transform, CHUNK_FRAMES, self._stop, span,
                threads=self._codec_threads, max_damage=self._max_damage,
            )  # fmt: skip
            try:
                for chunk in video:
                    self._put(slot, chunk)
                self._put(slot, VideoEnd(video.warning, video.damage))
            except _Stopped:
                return
            except VideoError as error:
                self._put_last(slot, error)
            except BaseException as error:  # anything else is a fault of the program: the consumer must see it
                self._put_last(slot, _Crash(error))
                return

    def _put(self, slot: queue.Queue[Event | _Crash], event: Event | _Crash) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                return slot.put(event, timeout=POLL_SECONDS)
        raise _Stopped

    def _put_last(self, slot: queue.Queue[Event | _Crash], event: Event | _Crash) -> None:
        with suppress(_Stopped):
            self._put(slot, event)


@dataclass(frozen=True)
class EncodedVideo:
    """features: float32 [T, D]; timestamps: float64 [T] in seconds. warning: None, or one sentence about damage.

    T counts frames; of an encoder of clips, it counts these: see `whole_clips`.
    """

    features: np.ndarray
    timestamps: np.ndarray
    damage: Damage
    warning: str | None = None


def encode_videos(
    videos: Mapping[str, Path],
    encoder: ImageEncoder,
    spec: SamplingSpec,
    *,
    batch_size: int = 64,
    workers: int = 2,
    normalize: bool = False,
    spans: Mapping[str, Span] | None = None,
    max_damage: float = MAX_DAMAGE,
) -> Iterator[tuple[str, EncodedVideo | VideoError]]:
    """The features of each of `videos` (id -> path), or why it cannot be read, in their order.

    batch_size: frames encoded at once. workers: threads that decode, each a whole video. normalize: divide each
    frame's features by their L2 norm. spans: the part to read of those videos (by id) that are not read whole.
    max_damage: the largest share of damaged frames with which a video is used.
    """
    batches = _Batches(encoder, batch_size, normalize)
    with DecodeAhead(dict(videos), spec, encoder.preprocess, workers, spans, max_damage) as ahead:
        for video_id, event in ahead:
            if isinstance(event, FrameChunk):
                batches.add(video_id, event)
            elif isinstance(event, VideoError):
                batches.abandon(video_id, event)
            else:
                batches.end(video_id, event.damage, event.warning)
            yield from batches.complete()
    batches.finish()
    yield from batches.complete()


def encode_frames(encoder: ImageEncoder, images: Tensor, normalize: bool) -> Tensor:
    """Features float32 [n, D] of n preprocessed frames or clips; normalize: divided by their L2 norm."""
    break_off_if_stopped()
    return _finished(encoder.encode_images(images), normalize)


def whole_clips(images: Tensor, size: int) -> Tensor:
    """Frames of a video [T, ...] as whole clips of `size` consecutive frames: the last frame repeats to fill the last.

    Returns [n * size, ...]. At which times these are, `sampling.middle_frames` tells.
    """
    missing = -len(images) % size
    return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])]) if missing else images


def _finished(features: Tensor, normalize: bool) -> Tensor:
    features = features.float()
    return torch.nn.functional.normalize(features, dim=-1) if normalize else features


def fitting_encoder(
    wanted: Fingerprint | None,
    device: torch.device,
    precision: str,
    name: str | None = None,
    weights: Path | None = None,
) -> ImageEncoder:
    """The encoder that features of the fingerprint `wanted` were made with.

    name, weights: where it is, if not where the fingerprint says; without a fingerprint a name has to be given.
    Raises ClipcapError when it is another encoder, or cannot be had.
    """
    encoder_name = name or (wanted.encoder if wanted is not None else None)
    if encoder_name is None:
        raise ClipcapError("the features do not say which encoder made them; name it with --encoder")
    encoder = load_encoder(encoder_name, device, precision, weights)
    if wanted is not None:
        given = replace(
            wanted, encoder=encoder.name, weights=encoder.weights_digest, preprocessing=encoder.preprocessing
        )
        check_fingerprints(wanted, given, f"encoder {encoder.name}")
    return encoder


class _Batches:
    """Forms batches across videos, and hands features back to their videos."""

    def __init__(self, encoder: ImageEncoder, batch_size: int, normalize: bool) -> None:
        self._encoder = encoder
        self._clip = encoder.frames_per_clip
        self._batch_size = max(1, batch_size // self._clip) * self._clip
        self._normalize = normalize
        self._open: deque[_Assembly] = deque()  # videos not yet handed over, in order
        self._waiting: deque[tuple[_Assembly, Tensor]] = deque()  # images [n, 3, S, S] not yet encoded, in order
        self._waiting_frames = 0
        self._encoding: deque[_Batch] = deque()  # begun, in order

    def add(self, video_id: str, chunk: FrameChunk) -> None:
        assembly = self._assembly(video_id)
        assembly.timestamps.append(chunk.timestamps)
        images = chunk.images if assembly.rest is None else torch.cat([assembly.rest, chunk.images])
        whole = len(images) // self._clip * self._clip
        assembly.rest = images[whole:] if whole < len(images) else None
        if whole:
            self._wait(assembly, images[:whole])

    def _wait(self, assembly: _Assembly, images: Tensor) -> None:
        assembly.unencoded += len(images)
        self._waiting.append((assembly, images))
        self._waiting_frames += len(images)
        while self._waiting_frames >= self._batch_size:
            self._encode()
            while len(self._encoding) > 1:
                self._collect()

    def end(self, video_id: str, damage: Damage, warning: str | None) -> None:
        assembly = self._assembly(video_id)
        if assembly.rest is not None:
            self._wait(assembly, whole_clips(assembly.rest, self._clip))
            assembly.rest = None
        assembly.ended, assembly.damage, assembly.warning = True, damage, warning

    def abandon(self, video_id: str, error: VideoError) -> None:
        """Drops the frames of a video that turned out to be unreadable, perhaps after some of them."""
        assembly = self._assembly(video_id)
        kept = [(other, images) for other, images in self._waiting if other is not assembly]
        self._waiting = deque(kept)
        self._waiting_frames = sum(len(images) for _, images in kept)
        assembly.ended, assembly.unencoded, assembly.error = True, 0, error

    def finish(self) -> None:
        while self._waiting_frames:
            self._encode()
        while self._encoding:
            self._collect()

    def complete(self) -> Iterator[tuple[str, EncodedVideo | VideoError]]:
        """The videos whose features are there, up to the first that still waits."""
        while self._open and self._open[0].ended and self._open[0].unencoded <= 0:
            assembly = self._open.popleft()
            yield assembly.video_id, assembly.result(self._clip)

    def _assembly(self, video_id: str) -> _Assembly:
        # Videos come one after the other, so only the last can still grow.
        if not self._open or self._open[-1].video_id != video_id:
            self._open.append(_Assembly(video_id))
        return self._open[-1]

    def _encode(self) -> None:
        """Hands the next batch to the encoder, which may still be at the one before."""
        batch: list[tuple[_Assembly, Tensor]] = []
        room = self._batch_size
        while room and self._waiting:
            assembly, images = self._waiting.popleft()
            batch.append((assembly, images[:room]))
            if len(images) > room:
                self._waiting.appendleft((assembly, images[room:]))
            room -= len(batch[-1][1])
        self._waiting_frames -= self._batch_size - room
        # torch.cat would wake a thread on each core, and these wait busily for more work while others compute. The
        # pixels lie channels last.
        pixels = np.concatenate([images.permute(0, 2, 3, 1).numpy() for _, images in batch])  # [n, S, S, 3]
        features = self._encoder.begin_images(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        self._encoding.append(_Batch([(assembly, len(images)) for assembly, images in batch], features))

    def _collect(self) -> None:
        """Hands the features of the oldest batch back to its videos."""
        batch = self._encoding.popleft()
        features = _finished(batch.features(), self._normalize)
        counts = [count // self._clip for _, count in batch.parts]
        for (assembly, count), part in zip(batch.parts, features.split(counts), strict=True):
            assembly.features.append(part.numpy())
            assembly.unencoded -= count


class _Assembly:
    """The features of one video as they come."""

    def __init__(self, video_id: str) -> None:
        self.video_id = video_id
        self.features: list[np.ndarray] = []  # [n, D] each
        self.timestamps: list[np.ndarray] = []  # [n] each, seconds
        self.unencoded = 0  # frames
        self.rest: Tensor | None = None  # [n, 3, S, S], frames that do not fill a clip yet
        self.ended = False
        self.damage = Damage()
        self.warning: str | None = None
        self.error: VideoError | None = None

    def result(self, clip: int) -> EncodedVideo | VideoError:
        if self.error is not None:
            return self.error
        features, timestamps = np.concatenate(self.features), np.concatenate(self.timestamps)
        timestamps = timestamps[middle_frames(len(timestamps), clip)]
        return EncodedVideo(features, timestamps, self.damage, self.warning)


@dataclass(frozen=True)
class _Batch:
    """Frames that are being encoded: videos with their numbers of frames, and what waits for the features."""

    parts: list[tuple[_Assembly, int]]
    features: Callable[[], Tensor]
