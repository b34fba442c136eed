"""Extraction over many videos: batches, resuming, failures, refusals, stopping."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipcap_video.encoders.base import ImageEncoder, NetworkEncoder, Preprocessing
from clipcap_video.errors import ClipcapError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import read_header
from clipcap_video.video.decoder import DECODER, Decoder
from clipcap_video.video.files import find_videos
from clipcap_video.video.reader import cv2
from clipcap_video.video.sampling import SamplingSpec
from tests import clips

SPEC = SamplingSpec("fps", fps=5)


class GridEncoder(ImageEncoder):
    """Features are the brightnesses of the 12 blocks, so that the features tell the frame's number."""

    name = "grid"
    dim = 12
    preprocessing = "24 x 24 by averaging"
    weights_digest = "sha256:0"
    device = torch.device("cpu")
    precision = "fp32"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def preprocess(self, frames: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(frames.float(), (24, 24)).to(torch.uint8)

    def encode_images(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 24, 24)
        assert images.dtype == torch.uint8
        self.batches.append(len(images))
        return clips.grid(images)


class LinearEncoder(GridEncoder):
    """One matrix product, whose rounding may depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(3 * 24 * 24, 48, generator=torch.Generator().manual_seed(0)) / 40

    def encode_images(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return (images.float() / 255).flatten(1) @ self.weight


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    for index, frames in enumerate([31, 1, 12, 4, 57, 20]):
        clips.write_clip(folder / f"video{index}.avi", frames, first=100 * index)
    return find_videos(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


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


def test_pieces_that_are_encoded_side_by_side_are_put_together_in_order() -> None:
    class Means(NetworkEncoder):
        def image_features(self, pixels: Tensor) -> Tensor:
            return pixels.mean(dim=(2, 3))

    recipe = Preprocessing(8, (8, 8), "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    encoder = Means("means", torch.nn.Identity(), 3, recipe, "sha256:0", torch.device("cpu"), "fp32")
    images = torch.randint(0, 256, (37, 3, 8, 8), dtype=torch.uint8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = encoder.encode_images(images)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, images.float().mean(dim=(2, 3)))


def test_normalised_features_have_length_one(tmp_path: Path, videos: dict[str, Path]) -> None:
    extract(videos, GridEncoder(), SPEC, tmp_path / "out", normalize=True, progress=False)
    features = open_features(tmp_path / "out").load("video4").features
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3)
    with pytest.raises(ClipcapError, match="normalised"):
        extract(videos, GridEncoder(), SPEC, tmp_path / "out", progress=False)


def test_only_missing_and_damaged_videos_are_made(tmp_path: Path, videos: dict[str, Path]) -> None:
    out = tmp_path / "out"
    extract(videos, GridEncoder(), SPEC, out, progress=False)
    before = contents(out)
    untouched = (out / "video0.safetensors").stat().st_mtime_ns
    (out / "video1.safetensors").unlink()
    clips.truncate(out / "video2.safetensors", 0.7)
    (out / "video3.safetensors").write_bytes(b"")
    (out / ".video4.4711.partial").write_bytes(b"left by a killed run")
    encoder = GridEncoder()
    summary = extract(videos, encoder, SPEC, out, progress=False)
    assert (summary.done, summary.skipped) == (3, 3)
    assert sum(encoder.batches) == 1 + 6 + 2
    assert contents(out) == before
    assert (out / "video0.safetensors").stat().st_mtime_ns == untouched
    summary = extract(videos, GridEncoder(), SPEC, out, overwrite=True, progress=False)
    assert (summary.done, summary.skipped) == (6, 0)


def test_features_of_another_kind_are_refused_before_any_work(tmp_path: Path, videos: dict[str, Path]) -> None:
    out = tmp_path / "out"
    extract({"video4": videos["video4"]}, GridEncoder(), SPEC, out, progress=False)
    (out / "failures.jsonl").write_text("{}\n")
    before = contents(out)
    encoder = GridEncoder()
    with pytest.raises(ClipcapError, match=r"fps all at 5 fps.*uniform 28"):
        extract(videos, encoder, SamplingSpec(), out, progress=False)
    # Overwriting cannot fix a folder whose other videos are not in this run.
    with pytest.raises(ClipcapError, match=r"video4\.safetensors"):
        extract({"video0": videos["video0"]}, encoder, SamplingSpec(), out, overwrite=True, progress=False)
    assert contents(out) == before
    assert encoder.batches == []
    assert extract(videos, encoder, SamplingSpec(), out, overwrite=True, progress=False).done == 6
    assert {read_header(file)[0].sampling for file in out.glob("*.safetensors")} == {SamplingSpec()}
    (tmp_path / "file").write_text("")
    with pytest.raises(ClipcapError, match="not a folder"):
        extract(videos, encoder, SPEC, tmp_path / "file", progress=False)


def test_bad_videos_are_listed_and_the_others_done(tmp_path: Path, videos: dict[str, Path]) -> None:
    out = tmp_path / "out"
    videos["video1"].write_text("no video")
    videos["video4"].unlink()
    clips.truncate(videos["video5"], 0.85)
    damaged = extract(videos, GridEncoder(), SPEC, tmp_path / "strict", progress=False)
    assert [failure.video for failure in damaged.failures] == ["video1", "video4", "video5"]
    assert "the file is truncated" in damaged.failures[2].reason
    summary = extract(videos, GridEncoder(), SPEC, out, progress=False, max_damage=0.5)
    assert (summary.done, summary.failed) == (4, 2)
    lines = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [line["video"] for line in lines] == ["video1", "video4"]
    assert [line["path"] for line in lines] == [str(videos["video1"]), str(videos["video4"])]
    assert all(Path(line["path"]).name in line["reason"] for line in lines)
    assert [failure.reason for failure in summary.failures] == [line["reason"] for line in lines]
    assert list(summary.warnings) == ["video5"]
    # What was found is kept beside the features.
    (warned,) = [json.loads(line) for line in (out / "warnings.jsonl").read_text().splitlines()]
    assert (warned["video"], warned["path"]) == ("video5", str(videos["video5"]))
    assert warned["damage"]["truncated"]
    assert 0 < warned["damage"]["missing"] < warned["damage"]["frames"]
    origin = open_features(out).origin("video5")
    assert origin.damage is not None
    assert origin.damage.to_json() == warned["damage"]
    assert origin.decoder == DECODER
    sound = open_features(out).origin("video2").damage
    assert sound is not None
    assert not sound
    assert sound.frames == origin_frames(videos["video2"])
    # Mended, the list goes; nothing stale stays in it.
    clips.write_clip(videos["video1"], 3)
    again = extract(videos, GridEncoder(), SPEC, out, progress=False)
    assert [failure.video for failure in again.failures] == ["video4"]
    assert len((out / "failures.jsonl").read_text().splitlines()) == 1
    clips.write_clip(videos["video4"], 3)
    assert extract(videos, GridEncoder(), SPEC, out, progress=False).failed == 0
    assert not (out / "failures.jsonl").exists()


def origin_frames(path: Path) -> int:
    with Decoder(path) as decoder:
        return len(list(decoder))


def test_a_name_too_long_stops_no_other(tmp_path: Path) -> None:
    longest = clips.write_clip(tmp_path / "clip.mp4", 3).rename(tmp_path / f"{'x' * 251}.mp4")
    fitting = clips.write_clip(tmp_path / "clip.mp4", 3).rename(tmp_path / f"{'y' * 243}.mp4")
    summary = extract(find_videos(tmp_path), GridEncoder(), SPEC, tmp_path / "out", progress=False)
    assert [failure.video for failure in summary.failures] == [longest.stem]
    assert "too long" in summary.failures[0].reason
    assert open_features(tmp_path / "out").ids() == [fitting.stem]


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


def test_a_killed_run_is_finished_by_the_next(tmp_path: Path, videos: dict[str, Path]) -> None:
    out = tmp_path / "out"
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.features.test_extract import SPEC, GridEncoder, extract, find_videos\n"
        "class Slow(GridEncoder):\n"
        "    def encode_images(self, images):\n"
        "        time.sleep(0.05)\n"
        "        return super().encode_images(images)\n"
        "extract(find_videos(Path(sys.argv[1])), Slow(), SPEC, Path(sys.argv[2]), batch_size=2)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "videos"), str(out)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        deadline = time.monotonic() + 60
        while len(list(out.glob("*.safetensors"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = len(list(out.glob("*.safetensors")))
    assert 3 <= done < 6
    summary = extract(videos, GridEncoder(), SPEC, out, progress=False)
    assert (summary.done, summary.skipped) == (6 - done, done)
    extract(videos, GridEncoder(), SPEC, tmp_path / "whole", progress=False)
    assert contents(out) == contents(tmp_path / "whole")


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


def test_nothing_to_do_and_senseless_options(tmp_path: Path) -> None:
    assert extract({}, GridEncoder(), SPEC, tmp_path / "out").done == 0
    for options in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(ClipcapError, match="1 or more"):
            extract({}, GridEncoder(), SPEC, tmp_path / "out", **options)


def test_opencv_threads_are_put_back(tmp_path: Path, videos: dict[str, Path]) -> None:
    before = cv2.getNumThreads()
    extract(videos, GridEncoder(), SPEC, tmp_path / "out", progress=False)
    assert cv2.getNumThreads() == before
