"""A live source watched: captions with times, across cuts of the line, in bounded memory."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipcap_video.captioning import watching
from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.captioning.watching import LiveSegments, watch
from clipcap_video.errors import VideoError
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import Segmentation, SegmentFrames
from tests.captioning.conftest import SETTINGS
from tests.streams import TcpServer, running, write_stream

SHOTS = Segmentation("shots", shortest=0.3, longest=2.0)
LENGTHS = [10, 15, 10, 25]  # at 10 frames a second; the last is longer than `longest`


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("stream") / "stream.ts", LENGTHS)


def opened(place: object, **options: Any) -> LiveSegments:
    return LiveSegments(
        str(place),
        SHOTS,
        SamplingSpec("uniform", 4),
        lambda images: images[:, :, :8, :8],
        **{"patience": 0.3} | options,
    )


def taken(segments: LiveSegments, most: int = 1000) -> list[SegmentFrames]:
    found: list[SegmentFrames] = []
    while len(found) < most and (batch := segments.take()):
        found += [one.segment for one in batch]
    return found


def test_segments_begin_where_the_picture_changes_and_end_where_they_get_long(stream: Path) -> None:
    with opened(stream) as segments:
        found = taken(segments)
    assert [segment.start for segment in found] == pytest.approx([0, 1, 2.5, 3.5, 5.5], abs=0.01)
    assert [segment.end for segment in found] == pytest.approx([1, 2.5, 3.5, 5.5, 6.0], abs=0.1)
    assert all(1 <= len(segment.images) <= 4 for segment in found)
    assert (segments.counts.dropped_frames, segments.counts.dropped_segments) == (0, 0)


def _told(prediction: Prediction) -> tuple[object, ...]:
    """What is said, of what and when; the last digit of a log-probability depends on what it was batched with."""
    logprobs = [round(caption.logprob, 3) for caption in prediction.captions]
    return prediction.path, prediction.start, prediction.end, prediction.text, prediction.timestamps, logprobs


def test_captions_are_the_captioners_and_come_once(captioner: Captioner, stream: Path) -> None:
    fingerprint = captioner.require_fingerprint()
    places = {"segmentation": SHOTS, "spec": fingerprint.sampling, "transform": captioner.encoder.preprocess}
    with LiveSegments(str(stream), patience=0.3, **places) as segments:  # type: ignore[arg-type]
        said = list(watch(segments, captioner, SETTINGS, repeats=True))
    with LiveSegments(str(stream), patience=0.3, **places) as segments:  # type: ignore[arg-type]
        alone = captioner.caption_segments("stream", taken(segments), SETTINGS)
    assert [_told(one.prediction) for one in said] == [_told(replace(one, path=str(stream))) for one in alone]
    assert said[3].prediction.text == said[4].prediction.text  # one shot, cut because it is long
    with LiveSegments(str(stream), patience=0.3, **places) as segments:  # type: ignore[arg-type]
        once = list(watch(segments, captioner, SETTINGS))
        assert segments.counts.captions == len(said)
    assert [one.prediction.start for one in once] == [one.prediction.start for one in said[:4]]
    assert all(timedelta(0) <= datetime.now(timezone.utc) - one.at < timedelta(minutes=1) for one in said)


def test_a_line_that_is_cut_is_opened_again(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE", 0.05)
    told: list[str] = []
    stop = threading.Event()
    with running(TcpServer(stream, 1.0)) as server, opened(server.url, stop=stop, tell=told.append) as segments:
        before = taken(segments, 2)
        server.cut()
        down = time.monotonic()
        time.sleep(0.5)
        server.start()
        after = [one for one in taken(segments, 4) if one.start >= before[-1].end + 0.4]
        stop.set()
    assert after
    assert time.monotonic() - down < 10
    starts = [one.start for one in before + after]
    assert starts == sorted(starts)
    assert segments.counts.reopened >= 1
    assert any("ended; trying again in 0.05 s" in line for line in told)
    pauses = [float(line.split(" in ")[-1].split()[0]) for line in told if "refused" in line]
    assert pauses[:3] == [0.1, 0.2, 0.4][: len(pauses[:3])]  # growing
    assert f"{server.url} is back" in told


def test_what_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"^cannot open .*nothing\.ts"), opened(tmp_path / "nothing.ts"):
        pass


def test_captions_that_fall_behind_drop_the_oldest(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_WAITING", 2)
    told: list[str] = []
    stop = threading.Event()
    with running(TcpServer(stream, 0.5)) as server, opened(server.url, stop=stop, tell=told.append) as segments:
        while segments.counts.dropped_segments < 2:
            time.sleep(0.05)
        waiting = [one.segment for one in segments.take()]
        stop.set()
    assert 1 <= len(waiting) <= 2
    assert waiting[0].start > 2  # those before are gone
    assert f"{segments.counts.dropped_segments} segments dropped" in str(segments.counts)


def test_what_is_there_already_waits_instead(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_WAITING", 1)
    with opened(stream) as segments:
        time.sleep(0.3)
        found = taken(segments)
    assert len(found) == 5
    assert segments.counts.dropped_segments == 0


def test_stop_ends_it_though_the_source_says_nothing(tmp_path: Path) -> None:
    growing = tmp_path / "silent.ts"
    growing.write_bytes(b"")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with opened(growing, stop=stop, patience=60) as segments:
        assert segments.take() == []
    assert time.monotonic() - began < 2


def test_images_are_those_of_the_frames(stream: Path) -> None:
    with opened(stream) as segments:
        found = taken(segments)
    looks = [segment.images.float().mean((0, 2, 3)) for segment in found[:4]]
    assert all(not torch.allclose(first, second, atol=5) for first, second in pairwise(looks))
    assert np.allclose(looks[3], found[4].images.float().mean((0, 2, 3)), atol=3)
