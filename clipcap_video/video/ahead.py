"""Decoding many videos ahead of their use: threads fill bounded queues, the consumer drains them in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from clipcap_video.devices import cores, one_thread_each
from clipcap_video.errors import VideoError
from clipcap_video.video.damage import MAX_DAMAGE, Damage
from clipcap_video.video.reader import FrameChunk, SampledVideo, Transform, one_opencv_thread
from clipcap_video.video.sampling import SamplingSpec, Span

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
