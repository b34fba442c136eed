"""Requests captioned together: threads read videos, and one thread captions the segments of all of them in batches."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.captioning.streaming import joined
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError, VideoError, first_line
from clipcap_video.video.reader import one_opencv_thread
from clipcap_video.video.segments import Segmentation, SegmentedVideo, SegmentFrames
from clipcap_video.web.library import check_length, check_pixels, check_size

BATCH = 16  # segments captioned together at most
BATCH_FRAMES = 512  # and frames of them, unless one segment has more
READERS = 4  # videos read at once
MOST_JOBS = 256  # videos that wait or are read
AHEAD = 16  # segments of one video that wait for their captions
POLL_SECONDS = 0.1


class Busy(ClipcapError):
    """More jobs than are taken at once."""


@dataclass(frozen=True)
class End:
    """A video is captioned to its end. warning: one sentence about a video that is not what its header says."""

    warning: str | None = None


Event = Prediction | End | ClipcapError


@dataclass
class Job:
    """One video to caption. name: what its sender calls it. temporary: the file is deleted when the job ends.

    tell: is given a Prediction for each segment, then End or the error that ended it; called in another thread.
    stop: set by whoever wants no more of it.
    """

    path: Path
    name: str
    segmentation: Segmentation
    temporary: bool = False
    tell: Callable[[Event], None] = lambda event: None
    stop: threading.Event = field(default_factory=threading.Event)

    def discard(self) -> None:
        if self.temporary:
            self.path.unlink(missing_ok=True)


class CaptionQueue:
    """Captions jobs as a context manager, which `close` or leaving it ends; jobs that are not done end in an error.

    most_bytes, most_jobs: larger files, and more jobs at once, are refused.
    """

    def __init__(
        self, captioner: Captioner, settings: DecodingSettings, most_bytes: int, most_jobs: int = MOST_JOBS
    ) -> None:
        self.captioner, self.settings = captioner, settings
        self.most_bytes, self.most_jobs = most_bytes, most_jobs
        self.open_jobs = 0
        self.batches: deque[int] = deque(maxlen=1000)  # sizes of the last ones
        self._jobs: queue.PriorityQueue[tuple[int, int, Job]] = queue.PriorityQueue()
        self._segments: queue.Queue[tuple[SegmentFrames, Future[Prediction]]] = queue.Queue()
        self._held: tuple[SegmentFrames, Future[Prediction]] | None = None
        self._numbers = itertools.count()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._under_way: set[threading.Event] = set()
        self._settings = ExitStack()
        # Daemons, so that a decoder stuck in a damaged file cannot keep the process alive.
        self._threads = [threading.Thread(target=self._read, name=f"reader-{n}", daemon=True) for n in range(READERS)]
        self._threads.append(threading.Thread(target=self._caption, name="captions", daemon=True))

    def __enter__(self) -> CaptionQueue:
        self.captioner.require_fingerprint()
        assert self.captioner.encoder is not None  # loaded now, not by the first request
        self._settings.enter_context(one_opencv_thread())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        deadline = time.monotonic() + 0.8
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._settings.close()

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            for stop in self._under_way:
                stop.set()

    def add(self, jobs: Sequence[Job], in_bulk: bool = False) -> None:
        """Takes all of the jobs or none. in_bulk: they come after those that somebody waits for.

        Raises Busy when there are too many, after their temporary files are deleted.
        """
        with self._lock:
            busy = self.open_jobs + len(jobs) > self.most_jobs
            if not busy:
                self.open_jobs += len(jobs)
        if busy:
            for job in jobs:
                job.discard()
            raise Busy(f"{self.open_jobs} videos are waiting and {self.most_jobs} is the limit; try again later")
        for job in jobs:
            self._jobs.put((int(in_bulk), next(self._numbers), job))

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                job = self._jobs.get(timeout=POLL_SECONDS)[2]
            except queue.Empty:
                continue
            with self._lock:
                self._under_way.add(job.stop)
            event: Event
            try:
                event = self._done(job)
            except ClipcapError as error:
                # The path is the server's own; who sent the file knows it by its name.
                event = type(error)(str(error).replace(str(job.path), job.name).replace(job.path.name, job.name))
            except BaseException as error:  # one video must not end the thread
                print(f"failed: {job.name[:100]!r}: {first_line(error)[:200]}", file=sys.stderr)
                event = ClipcapError(f"{job.name} could not be captioned; the server's log says why")
            job.discard()
            with self._lock:
                self._under_way.discard(job.stop)
                self.open_jobs -= 1
            job.tell(event)

    def _done(self, job: Job) -> End:
        if not job.stop.is_set():
            check_size(job.path, self.most_bytes)
            sampling, preprocess = self.captioner.require_fingerprint().sampling, self.captioner.encoder.preprocess
            video = SegmentedVideo(job.path, job.segmentation, sampling, preprocess, stop=job.stop)
            check_length(job.name, video.duration)
            check_pixels(job.name, video.pixels)
            for prediction in joined(self._captions(job, video)):
                job.tell(prediction)
        if job.stop.is_set():
            raise VideoError(f"{job.name} was not captioned to its end: it was cancelled, or the server stopped")
        return End(video.warning)

    def _captions(self, job: Job, video: SegmentedVideo) -> Iterator[Prediction]:
        """Captions of a video's segments in their order; reading goes on while they are made."""
        waiting: deque[Future[Prediction]] = deque()

        def first() -> Prediction:
            future = waiting.popleft()
            while not wait([future], POLL_SECONDS).done:
                if job.stop.is_set() or self._closed.is_set():
                    waiting.append(future)  # to be cancelled
                    raise VideoError(f"{job.name} was cancelled, or the server stopped")
            return replace(future.result(), video=Path(job.name).stem or job.name)

        try:
            for segment in video:
                check_length(job.name, segment.end)
                waiting.append(Future())
                self._segments.put((segment, waiting[-1]))
                while waiting and (waiting[0].done() or len(waiting) > AHEAD):
                    yield first()
            while waiting:
                yield first()
        finally:
            for future in waiting:
                future.cancel()

    def _caption(self) -> None:
        while not self._closed.is_set():
            batch = self._batch()
            if not batch:
                continue
            self.batches.append(len(batch))
            try:
                self._answer(batch)
            except Exception:  # one segment at a time, so that what breaks one request breaks no other
                for one in batch:
                    self._answer_alone(one)
            except BaseException as error:  # Stopped, by a signal
                for _, future in batch:
                    future.set_exception(ClipcapError(f"the server stopped ({type(error).__name__})"))

    def _answer_alone(self, one: tuple[SegmentFrames, Future[Any]]) -> None:
        try:
            self._answer([one])
        except BaseException as error:
            one[1].set_exception(error)

    def _answer(self, batch: list[tuple[SegmentFrames, Future[Any]]]) -> None:
        predictions = self.captioner.caption_segments("", [segment for segment, _ in batch], self.settings)
        for prediction, (_, future) in zip(predictions, batch, strict=True):
            future.set_result(prediction)

    def _batch(self) -> list[tuple[SegmentFrames, Future[Prediction]]]:
        """Segments that wait, of whichever jobs; those that nobody waits for any more are left out."""
        batch: list[tuple[SegmentFrames, Future[Prediction]]] = []
        frames = 0
        while len(batch) < BATCH:
            one, self._held = self._held, None
            try:
                one = one or self._segments.get(timeout=0 if batch else POLL_SECONDS)
            except queue.Empty:
                break
            if batch and frames + len(one[0].images) > BATCH_FRAMES:
                self._held = one
                break
            if one[1].set_running_or_notify_cancel():
                batch.append(one)
                frames += len(one[0].images)
        return batch
