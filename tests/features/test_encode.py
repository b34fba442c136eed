"""Decoding ahead and encoding across videos: each gets its own frames, whatever the batches and the threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipcap_video.errors import ClipcapError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.video.files import find_videos
from clipcap_video.video.reader import cv2
from clipcap_video.video.sampling import SamplingSpec
from tests import clips
from tests.features.conftest import SPEC, GridEncoder, contents


class LinearEncoder(GridEncoder):
    """One matrix product, whose rounding may depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(3 * 24 * 24, 48, generator=torch.Generator().manual_seed(0)) / 40

    def encode_images(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return (images.float() / 255).flatten(1) @ self.weight


@pytest.mark.parametrize("batch_size", [1, 7, 16, 500])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_video_gets_its_own_frames_whatever_the_batches(
    tmp_path: Path, videos: dict[str, Path], batch_size: int, workers: int
) -> None:
    encoder = GridEncoder()
    summary = extract(videos, encoder, SPEC, tmp_path / "out", batch_size=batch_size, workers=workers, progress=False)
    store = open_features(tmp_path / "out")
    total = 0
    for index, frames in enumerate([31, 1, 12, 4, 57, 20]):
        loaded = store.load(f"video{index}")
        expected = list(range(0, frames, 2))
        assert clips.numbers_of_grid(loaded.features) == [100 * index + number for number in expected]
        np.testing.assert_allclose(loaded.timestamps, np.array(expected) / 10, atol=1e-6)
        total += len(expected)
    assert (summary.done, summary.skipped, summary.failed, summary.frames) == (6, 0, 0, total)
    assert set(encoder.batches[:-1]) <= {batch_size}
    assert sum(encoder.batches) == total
    assert sorted(contents(tmp_path / "out")) == [f"video{index}.safetensors" for index in range(6)]
    assert store.fingerprint is not None
    assert (store.fingerprint.sampling, store.fingerprint.encoder) == (SPEC, "grid")


def test_two_runs_write_the_same_bytes_and_batches_matter_only_by_rounding(
    tmp_path: Path, videos: dict[str, Path]
) -> None:
    for name, batch_size, workers in [("a", 16, 3), ("b", 16, 1), ("one", 1, 2)]:
        extract(
            videos,
            LinearEncoder(),
            SPEC,
            tmp_path / name,
            batch_size=batch_size,
            workers=workers,
            progress=False,
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for video_id in videos:
        alone = open_features(tmp_path / "one").load(video_id).features
        np.testing.assert_allclose(open_features(tmp_path / "a").load(video_id).features, alone, atol=2e-3)


def test_a_batch_is_begun_before_the_one_before_it_has_ended(tmp_path: Path, videos: dict[str, Path]) -> None:
    steps: list[str] = []

    class Noting(GridEncoder):
        def begin_images(self, images: Tensor) -> Callable[[], Tensor]:
            number = sum(step.startswith("begin") for step in steps)
            steps.append(f"begin {number}")
            features = self.encode_images(images)

            def end() -> Tensor:
                steps.append(f"end {number}")
                return features

            return end

    extract(videos, Noting(), SPEC, tmp_path / "noted", batch_size=4, progress=False)
    assert steps[:5] == ["begin 0", "begin 1", "end 0", "begin 2", "end 1"]
    assert sum(step.startswith("end") for step in steps) == len(steps) // 2
    extract(videos, GridEncoder(), SPEC, tmp_path / "plain", batch_size=4, progress=False)
    assert contents(tmp_path / "noted") == contents(tmp_path / "plain")


def test_a_video_that_breaks_midway_leaves_no_trace_in_its_neighbours(tmp_path: Path, videos: dict[str, Path]) -> None:
    class Breaking(GridEncoder):
        def preprocess(self, frames: Tensor) -> Tensor:
            if 440 in clips.numbers_in(frames):  # in the third chunk of video4
                raise cv2.error("no memory for the picture")
            return super().preprocess(frames)

    out = tmp_path / "out"
    summary = extract(videos, Breaking(), SPEC, out, batch_size=10, progress=False)
    assert [failure.video for failure in summary.failures] == ["video4"]
    assert "no memory for the picture" in summary.failures[0].reason
    store = open_features(out)
    assert "video4" not in store
    assert clips.numbers_of_grid(store.load("video5").features) == list(range(500, 520, 2))


@pytest.mark.parametrize("error", [ValueError("a fault"), KeyboardInterrupt(), ClipcapError("wrong encoder")])
@pytest.mark.parametrize("where", ["preprocess", "encode_images"])
def test_other_errors_stop_the_run_and_its_threads(
    tmp_path: Path, videos: dict[str, Path], error: BaseException, where: str
) -> None:
    class Faulty(GridEncoder):
        calls = 0

        def _count(self) -> None:
            self.calls += 1
            if self.calls == 3:
                raise error

        def preprocess(self, frames: Tensor) -> Tensor:
            if where == "preprocess":
                self._count()
            return super().preprocess(frames)

        def encode_images(self, images: Tensor) -> Tensor:
            if where == "encode_images":
                self._count()
            return super().encode_images(images)

    start = time.monotonic()
    with pytest.raises(type(error)):
        extract(videos, Faulty(), SPEC, tmp_path / "out", batch_size=4, workers=2, progress=False)
    assert time.monotonic() - start < 8
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("decode-")]
    # What was not finished is made by the next run.
    extract(videos, GridEncoder(), SPEC, tmp_path / "out", progress=False)
    extract(videos, GridEncoder(), SPEC, tmp_path / "whole", progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_frames_under_way_are_bounded(tmp_path: Path) -> None:
    """Behind a slow encoder the memory does not fill, neither by a long video nor by many short ones."""
    folder = tmp_path / "videos"
    folder.mkdir()
    clips.write_clip(folder / "video0.avi", 3000, fps=100)
    for index in range(1, 30):
        clips.write_clip(folder / f"video{index}.avi", 40, fps=100)

    class Counting(GridEncoder):
        made = encoded = most = largest = 0
        lock = threading.Lock()

        def preprocess(self, frames: Tensor) -> Tensor:
            with self.lock:
                self.made += len(frames)
                self.most = max(self.most, self.made - self.encoded)
                self.largest = max(self.largest, len(frames))
            return super().preprocess(frames)

        def encode_images(self, images: Tensor) -> Tensor:
            time.sleep(0.005)
            with self.lock:
                self.encoded += len(images)
            return super().encode_images(images)

    encoder = Counting()
    spec = SamplingSpec("fps", fps=100)
    summary = extract(find_videos(folder), encoder, spec, tmp_path / "out", batch_size=32, workers=2, progress=False)
    assert summary.frames == 3000 + 29 * 40
    # 4 videos under way with 8 chunks of 8 frames, a chunk in each thread's hand, a batch being formed.
    assert encoder.most <= 4 * 64 + 2 * 8 + 32 + 8
    assert encoder.largest == 8
    assert clips.numbers_of_grid(open_features(tmp_path / "out").load("video0").features) == list(range(3000))


def test_opencv_threads_are_put_back(tmp_path: Path, videos: dict[str, Path]) -> None:
    before = cv2.getNumThreads()
    extract(videos, GridEncoder(), SPEC, tmp_path / "out", progress=False)
    assert cv2.getNumThreads() == before
