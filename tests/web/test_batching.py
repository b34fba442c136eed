"""The queue behind the endpoint: order, limits, and an end for every job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.errors import VideoError
from clipcap_video.video.segments import Segmentation
from clipcap_video.web import batching
from clipcap_video.web.batching import Busy, CaptionQueue, End, Event, Job
from tests.captioning.conftest import SETTINGS, captioner  # noqa: F401  (a fixture)
from tests.clips import write_shots

# ruff: noqa: F811


class Told:
    """What is told of a job, and when it has ended."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Prediction):
            self.ended.set()

    def wait(self) -> list[Event]:
        assert self.ended.wait(30), "it did not end"
        return self.events


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_shots(tmp_path / "a.mkv", [30, 30, 40])


@pytest.fixture
def captions(captioner: Captioner) -> Iterator[CaptionQueue]:
    with CaptionQueue(captioner, SETTINGS, most_bytes=1_000_000, most_jobs=3) as queue:
        yield queue


def job(path: Path, segments: str = "shots", **more: Any) -> tuple[Job, Told]:
    told = Told()
    return Job(path, path.name, Segmentation.parse(segments), tell=told, **more), told


def test_segments_are_those_of_the_captioner_and_then_comes_the_end(
    captions: CaptionQueue, captioner: Captioner, clip: Path
) -> None:
    jobs = [job(clip, segments) for segments in ("shots", "whole", "fixed:1")]
    captions.add([one for one, _ in jobs])
    for (one, told), segments in zip(jobs, ("shots", "whole", "fixed:1"), strict=True):
        *found, end = told.wait()
        expected = [(part.start, part.text) for part in captioner.stream(clip, segments, SETTINGS)]
        assert [(part.start, part.text) for part in found if isinstance(part, Prediction)] == expected
        assert end == End()
        assert one.path.exists()
    assert captions.open_jobs == 0


def test_all_are_taken_or_none_and_files_of_refused_ones_are_gone(captions: CaptionQueue, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    for path in paths:
        path.touch()
    jobs = [job(path, temporary=number < 3) for number, path in enumerate(paths)]
    with pytest.raises(Busy, match="0 videos are waiting and 3 is the limit; try again later"):
        captions.add([one for one, _ in jobs])
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert (captions.open_jobs, [told.events for _, told in jobs]) == (0, [[]] * 4)


def test_what_cannot_be_read_is_told_by_the_name_of_its_sender(captions: CaptionQueue, tmp_path: Path) -> None:
    (tmp_path / "upload-4711").write_text("this is no video")
    told = Told()
    captions.add([Job(tmp_path / "upload-4711", "holiday.mp4", Segmentation(), temporary=True, tell=told)])
    (error,) = told.wait()
    assert isinstance(error, VideoError)
    assert str(error).startswith("holiday.mp4 is not a video")
    assert "4711" not in str(error)
    assert not (tmp_path / "upload-4711").exists()


def test_those_that_somebody_waits_for_come_before_those_in_bulk(
    captioner: Captioner, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "READERS", 1)
    order: list[str] = []
    queue = CaptionQueue(captioner, SETTINGS, most_bytes=1_000_000)
    jobs = []
    for name, in_bulk in (("bulk", True), ("more bulk", True), ("waited for", False)):
        told = Told()

        def tell(event: Event, name: str = name, told: Told = told) -> None:
            order.extend([] if isinstance(event, Prediction) else [name])
            told(event)

        queue.add([Job(clip, name, Segmentation.parse("whole"), tell=tell)], in_bulk)
        jobs.append(told)
    with queue:  # from now on they are read
        for told in jobs:
            told.wait()
    assert order == ["waited for", "bulk", "more bulk"]


def test_one_that_is_cancelled_ends_in_an_error_and_the_others_do_not(captions: CaptionQueue, clip: Path) -> None:
    (stopped, told), (other, others) = job(clip), job(clip)
    stopped.stop.set()
    captions.add([stopped, other])
    (error,) = told.wait()
    assert "was not captioned to its end: it was cancelled" in str(error)
    assert others.wait()[-1] == End()
