"""What the endpoint answers, as its OpenAPI description has it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from clipcap_video.captioning.formats import Results, Row, rows
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.search.ranking import SearchHit
from clipcap_video.web.batching import End, Event, Job


class Problem(BaseModel):
    detail: str


class Captions(BaseModel):
    """captions: as the lines of `--to jsonl`. start, end: seconds."""

    video: str
    captions: list[Row] = []
    warning: str | None = None


class BatchVideo(Captions):
    state: Literal["waiting", "done", "failed"] = "waiting"
    error: str | None = None


class Batch(BaseModel):
    """done: videos that are finished, failed ones among them."""

    id: str
    done: int
    total: int
    videos: list[BatchVideo]


class Found(BaseModel):
    videos: int
    results: list[SearchHit]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    model: str
    waiting: int
    searchable: int | None


@dataclass
class RunningBatch:
    """The jobs of a batch, and what was told of them so far."""

    jobs: list[Job]
    videos: list[BatchVideo]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def status(self, name: str) -> Batch:
        with self.lock:
            videos = [video.model_copy(update={"captions": list(video.captions)}) for video in self.videos]
        return Batch(id=name, done=sum(v.state != "waiting" for v in videos), total=len(videos), videos=videos)

    def teller(self, video: BatchVideo) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            with self.lock:
                if isinstance(event, Prediction):
                    video.captions.append(row_of(event))
                elif isinstance(event, End):
                    video.state, video.warning = "done", event.warning
                else:
                    video.state, video.error = "failed", str(event)

        return tell


def row_of(prediction: Prediction) -> Row:
    return Row(**next(rows(Results([prediction]))))
