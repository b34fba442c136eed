"""Extraction over many videos: batches, resuming, failures, refusals, stopping."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import read_header
from clipcap_video.video.decoder import DECODER, Decoder
from clipcap_video.video.files import find_videos
from clipcap_video.video.sampling import SamplingSpec
from tests import clips
from tests.features.conftest import SPEC, GridEncoder, contents


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


def test_nothing_to_do_and_senseless_options(tmp_path: Path) -> None:
    assert extract({}, GridEncoder(), SPEC, tmp_path / "out").done == 0
    for options in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(ClipcapError, match="1 or more"):
            extract({}, GridEncoder(), SPEC, tmp_path / "out", **options)
