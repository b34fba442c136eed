"""What `infer` and `caption` would take, and that nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import SegmentedVideo
from tests.commands import run
from tests.conftest import TinyProject
from tests.plans import everything, rows, short, videos  # noqa: F401  (fixtures)
from tests.tiny import features_of

# ruff: noqa: F811


class TestInfer:
    def test_counts_and_writes_nothing(self, videos: Path, tmp_path: Path, tiny_project: TinyProject) -> None:
        train = ["--caption", tiny_project.caption, "--lm", tiny_project.lm, "--num_layers", "1", "--epochs", "1"]
        run("train_vtt.py", "--data", tiny_project.data, *train, "--out_dir", tmp_path / "out", "--device", "cpu")
        before = everything(tmp_path)
        infer = [
            "inference_vtt.py",
            "--model_dir",
            tmp_path / "out",
            "--device",
            "cpu",
            "--dry_run",
            "--out",
            "new/p.json",
        ]
        done = run(*infer, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert rows(done.stdout)["videos"] == "6"
        assert rows(done.stdout)["frames"] == str(sum(len(features_of(number)) for number in range(30, 36)))
        assert "scores against references come on top" in done.stdout
        assert everything(tmp_path) == before

    def test_video_files(self, videos: Path, tmp_path: Path, tiny_project: TinyProject, short: Path) -> None:
        run("extract_features.py", "--videos", videos, "--encoder", tmp_path / "clip.pt", "--out", tmp_path / "f")
        (tmp_path / "a.csv").write_text("video,caption\nvideo1,a dog runs\nvideo2,a cat sits\n")
        run(
            "train_vtt.py", "--data", tmp_path / "f", "--caption", tmp_path / "a.csv", "--lm", tiny_project.lm,
            "--num_layers", "1", "--epochs", "1", "--out_dir", tmp_path / "out", "--device", "cpu",
        )  # fmt: skip
        before = everything(tmp_path)
        done = run("inference_vtt.py", "--model_dir", "out", "--videos", "videos", "--dry_run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (rows(done.stdout)["videos"], rows(done.stdout)["frames"]) == ("7", "35")
        assert everything(tmp_path, short) == before


class TestCaption:
    def test_counts_and_writes_nothing(
        self, videos: Path, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        captioner = OneCaptionASegment()
        monkeypatch.setattr("clipcap_video.cli.caption.load_captioner", lambda config: captioner)
        monkeypatch.setattr("clipcap_video.captioning.run.with_defaults_of", lambda settings, *rest: settings)
        (videos / "bad.mp4").write_bytes(b"no video")
        before = everything(tmp_path)
        command = ["clipcap-video", "caption", "videos", "--segments", "whole", "--dry_run", "--to", "srt"]
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said = rows(done.stdout)
        assert (said["videos"], said["captions"]) == ("8", "about 7")
        entry = "1\n00:00:00,000 --> 00:00:00,500\na dog\n\n"
        assert float(said["disk"].split()[1]) == pytest.approx(7 * len(entry), rel=0.2)
        assert "1 of the 8 videos looked at cannot be read" in done.stdout
        assert everything(tmp_path, short) == before
        for number in range(7):
            (videos / f"video{number}.srt").touch()
        assert rows(run(*command, cwd=tmp_path).stdout)["videos"] == "1, and 7 done already"


class OneCaptionASegment:
    """A captioner that says the same of every segment."""

    device = torch.device("cpu")
    encoder = SimpleNamespace(preprocess=lambda frames: frames[..., :8, :8])

    def require_fingerprint(self) -> SimpleNamespace:
        return SimpleNamespace(sampling=SamplingSpec())

    def caption_batches(self, video: SegmentedVideo, settings: object, batch_size: int) -> Iterator[list[Prediction]]:
        for segment in video:
            yield [Prediction("v", [Caption("a dog", 0.0, 0.0, 2)], start=segment.start, end=segment.end)]
