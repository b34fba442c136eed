"""Segments of a video captioned while it is still being read, and neighbours that say the same joined."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from clipcap_video.captioning.predictions import Prediction
from clipcap_video.devices import one_thread_each
from clipcap_video.errors import VideoError
from clipcap_video.video.reader import one_opencv_thread
from clipcap_video.video.segments import SegmentedVideo, SegmentFrames

# A batch is captioned when it is full, or this old: so much work is lost at most when the power fails.
BATCH_SECONDS = 10.0
POLL_SECONDS = 0.1

T = TypeVar("T")


def caption_batches(
    caption: Callable[[list[SegmentFrames]], list[Prediction]], video: SegmentedVideo, batch_size: int = 16
) -> Iterator[list[Prediction]]:
    """Captions of a video's segments, in their order, some at a time as they are done.

    A thread reads the video while this one encodes and decodes. caption: of a batch of segments. Where the video turns
    out to be broken, what was read of it is captioned first.
    """
    batch: list[SegmentFrames] = []
    failed: VideoError | None = None
    began = time.monotonic()
    with one_opencv_thread():
        segments = _ahead(video, 2 * batch_size)
        while True:
            try:
                segment = next(segments, None)
            except VideoError as error:
                segment, failed = None, error
            if segment is None:
                break
            batch.append(segment)
            if len(batch) == batch_size or time.monotonic() - began > BATCH_SECONDS:
                yield caption(batch)
                batch, began = [], time.monotonic()
    if batch:
        yield caption(batch)
    if failed is not None:
        raise failed


def joined(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Neighbours that say the same as one, from the first's start to the last's end.

    It keeps the captions of the one that is surer of its words, and the times of all frames.
    """
    held: Prediction | None = None
    for prediction in predictions:
        if held is None:
            held = prediction
        elif _words(held) == _words(prediction):
            held = _join(held, prediction)
        else:
            yield held
            held = prediction
    if held is not None:
        yield held


def _words(prediction: Prediction) -> str:
    return " ".join(prediction.text.casefold().split())


def _join(first: Prediction, second: Prediction) -> Prediction:
    surer = max(first, second, key=_sureness)
    return replace(
        surer, start=first.start, end=second.end, timestamps=[*first.timestamps, *second.timestamps], path=first.path
    )


def _sureness(prediction: Prediction) -> tuple[float, float]:
    if not prediction.captions:
        return -1.0, 0.0
    best = prediction.captions[0]
    return best.support or 0.0, best.mean_logprob


def _ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """The items, made in a thread that is at most `size` ahead; an exception there is raised here."""
    ready: queue.Queue[Any] = queue.Queue(size)
    gone, end = threading.Event(), object()

    def put(value: Any) -> None:
        while not gone.is_set():
            with suppress(queue.Full):
                return ready.put(value, timeout=POLL_SECONDS)

    def work() -> None:
        one_thread_each()
        try:
            for item in items:
                put(item)
                if gone.is_set():
                    return
            put(end)
        except BaseException as error:  # whatever it is, the consumer must see it
            put(error)

    # A daemon, so that a decoder stuck in a damaged file cannot keep the process alive.
    threading.Thread(target=work, name="segments", daemon=True).start()
    try:
        while True:
            try:
                value = ready.get(timeout=POLL_SECONDS)  # a timeout lets Ctrl-C in on every system
            except queue.Empty:
                continue
            if isinstance(value, BaseException):
                raise value
            if value is end:
                return
            yield value
    finally:
        gone.set()
