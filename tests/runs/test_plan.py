"""--dry_run: right counts, nothing written."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.runs import plan
from clipcap_video.runs.plan import Plan, in_bytes, in_words, measure
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import SegmentedVideo
from tests.bag_of_words import use_bag_of_words
from tests.clips import write_clip
from tests.commands import run
from tests.conftest import TinyProject
from tests.tiny import features_of
from tests.tiny_clip import save_tiny_clip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Little time for measuring, and a place of its own for what is only made to measure."""
    import clipcap_video.training.plan

    monkeypatch.setattr(plan, "BUDGET_SECONDS", 0.2)
    monkeypatch.setattr(clipcap_video.training.plan, "BUDGET_SECONDS", 0.2)
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def rows(text: str) -> dict[str, str]:
    return {line.split()[0]: line.split(None, 1)[1] for line in text.splitlines()[1:] if len(line.split()) > 1}


def everything(*folders: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(7):
        write_clip(folder / f"video{number}.mp4", frames=5)
    save_tiny_clip(tmp_path / "clip.pt")
    return folder


class TestExtract:
    def test_counts_and_writes_nothing(self, videos: Path, tmp_path: Path, short: Path) -> None:
        extract = ["extract_features.py", "--encoder", "clip.pt", "--frames", "3", "--device", "cpu", "--videos"]
        before = everything(tmp_path)
        done = run(*extract, "videos", "--dry_run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert everything(tmp_path, short) == before
        said = rows(done.stdout)
        assert (said["videos"], said["frames"]) == ("7", "about 21")
        assert said["time"].startswith("about ")

        assert run(*extract, "videos", cwd=tmp_path).returncode == 0
        written = sum(file.stat().st_size for file in (tmp_path / "features").glob("*.safetensors"))
        # To the byte, for all the videos were measured and are alike.
        assert said["disk"] == f"about {in_bytes(written)} in features"
        write_clip(videos / "video7.mp4")
        before = everything(tmp_path)
        assert rows(run(*extract, "videos", "--dry_run", cwd=tmp_path).stdout)["videos"] == "1, and 7 done already"
        (videos / "video7.mp4").unlink()
        assert "nothing to do" in run(*extract, "videos", "--dry_run", cwd=tmp_path).stdout
        # What would stop the run stops its plan.
        other = run(*extract, "videos", "--dry_run", "--frames", "2", cwd=tmp_path)
        assert (other.returncode, "extract into another folder" in other.stderr) == (1, True)

    def test_videos_that_cannot_be_read_are_said(self, videos: Path, tmp_path: Path) -> None:
        (videos / "video3.mp4").write_bytes(b"")
        done = run("extract_features.py", "--videos", videos, "--encoder", tmp_path / "clip.pt", "--dry_run")
        assert "1 of the 7 videos looked at cannot be read" in done.stdout


class TestTrain:
    def test_counts_and_writes_nothing(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        train = [
            "train_vtt.py", "--data", tiny_project.data, "--caption", tiny_project.caption, "--lm", tiny_project.lm,
            "--num_layers", "1", "--bs", "5", "--epochs", "8", "--device", "cpu", "--out_dir", tmp_path / "out",
            "--only_prefix", "--save_every", "4", "--precision", "fp32",
        ]  # fmt: skip
        done = run(*train, "--dry_run")
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.iterdir()) == []
        said = rows(done.stdout)
        # 24 videos in batches of 5 are 5 steps an epoch; a twentieth of 40 steps warms up.
        assert (said["videos"], said["captions"]) == ("24", "72")
        assert said["steps"] == "40, of which 2 warm up"
        assert said["frames"] == str(sum(len(features_of(number)) for number in range(24)))
        assert run(*train, "--max_minutes", "1e-9").returncode == 0
        done = run(*train, "--dry_run", "--resume")
        assert rows(done.stdout)["steps"] == "39, of which 1 warm up"
        assert run(*train, "--dry_run").returncode == 1  # there is a run already

    def test_disk(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        from clipcap_video.training.config import TrainConfig
        from clipcap_video.training.plan import plan_training
        from clipcap_video.training.run import train

        config = TrainConfig(
            data=tiny_project.data, caption=[tiny_project.caption], lm=str(tiny_project.lm), out_dir=tmp_path / "out",
            num_layers=2, bs=12, epochs=3, save_every=2, device="cpu", precision="fp32",
        )  # fmt: skip
        planned = plan_training(config).disk
        train(config)
        names = ("model.safetensors", "training_state.pt")
        written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.name in names)
        assert planned == pytest.approx(written, rel=0.1)


class TestTrainRetrieval:
    def test_counts_and_writes_nothing(
        self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_bag_of_words(monkeypatch)
        train = [
            "clipcap-video", "train-retrieval", "--features", tiny_project.data, "--annotations", tiny_project.caption,
            "--text_encoder", "bag-of-words", "--dim", "8", "--bs", "8", "--epochs", "4", "--device", "cpu",
            "--max_frames", "3", "--save_every", "2", "--precision", "fp32", "--out", tmp_path / "out",
        ]  # fmt: skip
        done = run(*train, "--dry_run")
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.iterdir()) == []
        said = rows(done.stdout)
        assert done.stdout.startswith("train-retrieval would take (nothing was written)")
        assert (said["videos"], said["captions"]) == ("24", "72")
        assert said["steps"] == "12, of which 1 warm up"
        assert said["frames"] == str(sum(min(len(features_of(number)), 3) for number in range(24)))
        assert "4 of " in said["time"]  # a validation an epoch
        assert run(*train).returncode == 0
        names = ("model.safetensors", "training_state.pt")
        written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.name in names)
        figure, unit = said["disk"].split()[1:3]
        assert float(figure) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(written, rel=0.6)  # tiny: mostly headers
        assert run(*train, "--dry_run").returncode == 1  # there is a run already


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


class TestMeasuring:
    def test_a_rate_without_what_comes_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A clock that costs 100 s at the first call, 2 s a call and 1 s an item."""
        clock = [0.0]
        seen: list[int] = []

        def work(part: Sequence[int]) -> None:
            clock[0] += 2 + len(part) + (0 if seen else 100)
            seen.extend(part)

        monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[0])
        monkeypatch.setattr(plan, "BUDGET_SECONDS", 60)
        rate = measure(list(range(1000)), work, first=4, probe=8)
        assert (rate.items, rate.seconds) == (40, 42)  # 8 items took 10 s, so 40 are thought to take 50 s
        assert len(set(seen)) == len(seen) == 4 + 8 + 40
        for count, expected in ((0, 0), (3, 105), (4, 106), (9, 7), (12, 10), (15, 15), (20, 10)):
            seen.clear()
            assert measure(list(range(count)), work, first=4, probe=8).seconds == expected

    def test_it_looks_at_all_of_the_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "BUDGET_SECONDS", 0)
        drawn: list[int] = []
        measure(list(range(1000)), drawn.extend, probe=200)
        assert np.mean(drawn) == pytest.approx(500, abs=60)

    @pytest.mark.parametrize(
        ("value", "said"),
        [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (56_789, "57 kB"), (1.2e9, "1.2 GB"), (3.4e12, "3.4 TB")],
    )
    def test_bytes(self, value: float, said: str) -> None:
        assert in_bytes(value) == said

    def test_times(self) -> None:
        assert [in_words(seconds) for seconds in (0.04, 12.3, 200, 3000, 9000)] == [
            "0.0 s", "12 s", "3 min 20 s", "50 minutes", "2.5 hours",
        ]  # fmt: skip

    def test_a_plan_in_words(self) -> None:
        text = Plan(
            "train", 10, frames=40, steps=100, warmup=5, disk=10**6, where="out", measured_on="3 steps"
        ).describe()
        assert re.search(r"steps +100, of which 5 warm up", text)
