"""What the endpoint tells of a batch while its videos are captioned."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic", reason="pydantic (extra web) is not installed")

from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.errors import VideoError
from clipcap_video.video.segments import Segmentation
from clipcap_video.web.answers import BatchVideo, RunningBatch, row_of
from clipcap_video.web.batching import End, Job


def said(text: str, start: float) -> Prediction:
    return Prediction("a", [Caption(text, -2.0, -1.0, 2, support=0.7)], [start], "a.mp4", start, start + 1)


def test_a_batch_counts_what_is_finished_and_keeps_what_was_said() -> None:
    names = ("a", "b", "c")
    batch = RunningBatch(
        [Job(Path(name), name, Segmentation()) for name in names], [BatchVideo(video=n) for n in names]
    )
    a, b, _ = (batch.teller(video) for video in batch.videos)
    a(said("a dog", 0.0))
    early = batch.status("x")
    a(said("a cat", 1.0))
    a(End("3 frames are damaged"))
    b(VideoError("b is not a video"))
    late = batch.status("x")
    assert [(video.state, len(video.captions)) for video in early.videos] == [
        ("waiting", 1),
        ("waiting", 0),
        ("waiting", 0),
    ]
    assert (early.done, late.done, late.total, late.id) == (0, 2, 3, "x")
    assert [(video.state, video.warning, video.error) for video in late.videos] == [
        ("done", "3 frames are damaged", None),
        ("failed", None, "b is not a video"),
        ("waiting", None, None),
    ]
    assert [(row.caption, row.start, row.end) for row in late.videos[0].captions] == [("a dog", 0, 1), ("a cat", 1, 2)]


def test_a_row_is_a_line_of_a_table() -> None:
    row = row_of(said("a dog", 2.0))
    assert (row.video, row.caption, row.support, row.logprob, row.error) == ("a", "a dog", 0.7, -2.0, None)
