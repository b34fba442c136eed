"""Retrieval runs on stored features and end to end, and their options."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clipcap_video.retrieval.train as retrieval
from clipcap_video.cli import main
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.optimisation import cosine_factor
from clipcap_video.retrieval.building import build_retrieval
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.data import DecodedFrames, sliced
from clipcap_video.retrieval.model import RetrievalModel, load_retrieval, read_retrieval_config
from clipcap_video.retrieval.train import train_retrieval
from clipcap_video.training.texts import embed_once
from clipcap_video.video.sampling import SamplingSpec
from tests.bag_of_words import BagOfWords, use_bag_of_words
from tests.clips import write_clip
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.tiny import captions_of
from tests.tiny_clip import save_tiny_clip

HEADS = ("meanP", "seqLSTM", "seqTransf", "tightTransf")


@pytest.fixture(autouse=True)
def _bag_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bag_of_words(monkeypatch)


def config(project: TinyProject, out: Path, **changes: Any) -> RetrievalTrainConfig:
    options: dict[str, Any] = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "text_encoder": "bag-of-words", "dim": 64,
        "epochs": 2, "bs": 8, "lr": 3e-3, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    if "init_from" in changes:
        options |= {"dim": None, "text_encoder": None}
    if changes.get("sim_header") in ("seqTransf", "tightTransf"):
        options["cross_num_hidden_layers"] = 1
    return RetrievalTrainConfig(**(options | changes))


@dataclass
class Ended:
    """What a command left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `clipcap-video WORDS...` in this process."""

    def command(*words: Any) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["clipcap-video", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, printed.out, printed.err)

    return command


class TestStoredFeatures:
    @pytest.mark.parametrize("head", HEADS)
    def test_every_head_learns_to_find_unseen_videos(
        self, tiny_project: TinyProject, tmp_path: Path, head: str
    ) -> None:
        summary = train_retrieval(config(tiny_project, tmp_path / "out", sim_header=head, epochs=20, eval_every=20))
        assert summary.finished
        assert summary.best_score is not None
        # R@1 + R@5 + R@10 of six videos, so four or more are found at once; by chance one is, and the sum is 200.
        assert summary.best_score > 260
        losses = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
        assert losses[0]["loss"] > 1.5 > 0.7 > losses[-2]["loss"]

    @pytest.mark.parametrize("stop_after", [1, 4])
    def test_a_stopped_and_resumed_run_ends_in_the_same_weights(
        self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
    ) -> None:
        options: dict[str, Any] = {"sim_header": "seqTransf", "expand_msrvtt_sentences": True, "bs": 20}

        def config_of(out: Path, **more: Any) -> RetrievalTrainConfig:
            return config(tiny_project, out, **options, **more)

        assert differing_weights(config_of, tmp_path, monkeypatch, stop_after, train_retrieval) == []
        assert read_retrieval_config(tmp_path / "parts" / "last")[1].progress["step"] == 6

    def test_an_epoch_is_every_video_or_every_caption(
        self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        monkeypatch.setattr(
            retrieval.RetrievalRun, "loss", lambda run, batch: (seen.extend(batch.video.tolist()), run.model(batch))[1]
        )
        train_retrieval(config(tiny_project, tmp_path / "a", epochs=1, eval_every=0))
        assert sorted(seen) == list(range(24))
        seen.clear()
        train_retrieval(config(tiny_project, tmp_path / "b", epochs=1, eval_every=0, expand_msrvtt_sentences=True))
        assert sorted(seen) == sorted([*range(24)] * 3)

    def test_init_from_begins_where_another_run_ended(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        train_retrieval(config(tiny_project, tmp_path / "a", sim_header="seqLSTM"))
        small = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "sim_header": "seqLSTM", "init_from": tmp_path / "a"}
        train_retrieval(config(tiny_project, tmp_path / "b", **small))
        first, second = (load_retrieval(tmp_path / name)[0].state_dict() for name in ("a", "b"))
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=0)

    def test_init_from_may_change_the_head(
        self, tiny_project: TinyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train_retrieval(config(tiny_project, tmp_path / "a", epochs=1))
        small = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "init_from": tmp_path / "a"}
        train_retrieval(config(tiny_project, tmp_path / "b", sim_header="seqTransf", **small))
        assert re.search(r"--sim_header seqTransf: \d+ tensors begin anew \(head\.positions", capsys.readouterr().err)
        first, second = (load_retrieval(tmp_path / name)[0] for name in ("a", "b"))
        assert (second.config.sim_header, second.config.num_layers) == ("seqTransf", 1)
        for name, weight in first.state_dict().items():
            torch.testing.assert_close(second.state_dict()[name], weight, atol=1e-6, rtol=0)
        train_retrieval(config(tiny_project, tmp_path / "c", **(small | {"init_from": tmp_path / "b"})))
        assert "tensors of --init_from have no place (head.positions" in capsys.readouterr().err
        deeper = {"init_from": tmp_path / "b", "sim_header": "seqTransf", "cross_num_hidden_layers": 3}
        with pytest.raises(ClipcapError, match="has 1 layers in its head; leave --cross_num_hidden_layers out"):
            train_retrieval(config(tiny_project, tmp_path / "d", **deeper))

    def test_packed_it_is_half_and_names_no_place(
        self, tiny_project: TinyProject, tmp_path: Path, run: Command
    ) -> None:
        train_retrieval(config(tiny_project, tmp_path / "a", epochs=1, eval_every=0))
        done = run("pack", tmp_path / "a", "--out", tmp_path / "packed")
        assert done.returncode == 0, done.stderr
        assert str(tmp_path) not in (tmp_path / "packed" / "config.json").read_text()
        whole, half = (load_retrieval(tmp_path / name)[0].state_dict() for name in ("a", "packed"))
        for name, weight in whole.items():
            torch.testing.assert_close(half[name], weight, rtol=1e-3, atol=1e-4)

    def test_a_record_resumes_a_run_that_began_with_another_model(
        self, tiny_project: TinyProject, tmp_path: Path, run: Command
    ) -> None:
        train_retrieval(config(tiny_project, tmp_path / "a", sim_header="seqTransf", epochs=1, eval_every=0))
        begun = ("--init_from", tmp_path / "a", "--sim_header", "seqTransf", "--bs", 8, "--epochs", 2)
        where = ("--features", tiny_project.data, "--annotations", tiny_project.caption, "--out", tmp_path / "b")
        done = run("train-retrieval", *where, *begun, "--device", "cpu", "--max_minutes", "1e-9")
        assert done.returncode == 0, done.stderr
        done = run("train-retrieval", "--config", tmp_path / "b" / "run.yaml", "--resume", "--max_minutes", 0)
        assert done.returncode == 0, done.stderr
        assert read_retrieval_config(tmp_path / "b" / "last")[1].progress["step"] == 6

    def test_a_run_resumes_with_its_own_options_only(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        train_retrieval(config(tiny_project, tmp_path / "a", epochs=1))
        with pytest.raises(ClipcapError, match="already holds a run"):
            train_retrieval(config(tiny_project, tmp_path / "a", epochs=1))
        with pytest.raises(ClipcapError, match=r"started with --epochs 1, --lr 0\.003"):
            train_retrieval(config(tiny_project, tmp_path / "a", epochs=2, lr=1e-3, resume=True))


def test_the_schedule_is_that_of_the_released_code() -> None:
    """Linear over the first tenth, then half a cosine that counts from the beginning."""
    assert [cosine_factor(step, 0.1, 100) for step in (0, 5)] == [0, 0.5]
    assert cosine_factor(10, 0.1, 100) == pytest.approx((1 + math.cos(0.1 * math.pi)) / 2)
    assert cosine_factor(50, 0.1, 100) == pytest.approx(0.5)
    assert cosine_factor(0, 0.0, 10) == 1


def test_frames_are_sliced_as_the_paper_does() -> None:
    assert [sliced(10, 4, kind).tolist() for kind in "012"] == [[0, 1, 2, 3], [6, 7, 8, 9], [0, 3, 6, 9]]
    assert sliced(3, 4, "1").tolist() == [0, 1, 2]


def test_embeddings_of_repeated_texts() -> None:
    texts = ["a dog", "a cat", "a dog"]
    before = BagOfWords.asked
    found = embed_once(BagOfWords(), texts)
    assert BagOfWords.asked == before + 2
    assert torch.equal(found.float(), BagOfWords().encode_text(texts))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips, the CSV that says what they show, and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "videos").mkdir()
    rows = [("video", "caption", "split")]
    for number in range(6):
        write_clip(folder / "videos" / f"clip{number}.mp4", frames=20 + number, fps=10, first=600 * number)
        rows.append((f"clip{number}", captions_of(number)[0], "train" if number < 4 else "validate"))
    with (folder / "captions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    save_tiny_clip(folder / "clip.pt")
    return folder


def end_to_end(clips: Path, out: Path, **changes: Any) -> RetrievalTrainConfig:
    options: dict[str, Any] = {
        "videos": [clips / "videos"], "caption": [clips / "captions.csv"], "out_dir": out, "max_frames": 3,
        "pretrained_clip_name": str(clips / "clip.pt"), "feature_framerate": 2.0, "epochs": 2, "bs": 4, "lr": 1e-3,
        "coef_lr": 0.1, "max_words": 12, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    if changes.get("sim_header") in ("seqTransf", "tightTransf"):
        options["cross_num_hidden_layers"] = 2
    return RetrievalTrainConfig(**(options | changes))


class TestEndToEnd:
    def test_clip_learns_and_its_features_serve(self, clips: Path, tmp_path: Path, run: Command) -> None:
        """Trained from frames; then its own CLIP extracts features, which score as the frames do."""
        out = tmp_path / "out"
        train_retrieval(end_to_end(clips, out, epochs=8, coef_lr=1.0, lr=4e-3, eval_every=8))
        losses = [json.loads(line).get("loss") for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert losses[7] < 0.8 * losses[0]
        features = tmp_path / "features"
        options = ("--frames", 3, "--fps", 2, "--device", "cpu", "--precision", "fp32", "--normalize")
        done = run(
            "extract",
            "--videos",
            clips / "videos",
            "--out",
            features,
            "--encoder",
            out / "best" / "model.safetensors",
            *options[:-1],
        )
        assert done.returncode == 0, done.stderr
        where = ("--model_dir", out, "--split", "validate", "--device", "cpu")
        by_frames = run("evaluate-retrieval", *where, "--out", tmp_path / "frames.json")
        by_features = run("evaluate-retrieval", *where, "--data", features, "--out", tmp_path / "features.json")
        assert by_frames.returncode == by_features.returncode == 0, by_frames.stderr + by_features.stderr
        assert (tmp_path / "frames.json").read_text() == (tmp_path / "features.json").read_text()
        assert by_frames.stdout.splitlines()[1].startswith("text to video")
        model = RetrievalModel.from_pretrained(out)
        stored = open_features(features).load("clip0")
        assert model.embed_frames(
            torch.from_numpy(stored.features)[None], torch.ones(1, 3, dtype=torch.bool)
        ).shape == (1, 3, 48)
        wrong = run(
            "extract",
            "--videos",
            clips / "videos",
            "--out",
            tmp_path / "w",
            "--encoder",
            clips / "clip.pt",
            *options[:-1],
        )
        assert wrong.returncode == 0
        refused = run("evaluate-retrieval", *where, "--data", tmp_path / "w")
        assert refused.returncode == 1
        assert "but the model was trained on" in refused.stderr

    @pytest.mark.parametrize("head", ["seqTransf", "tightTransf"])
    def test_heads_begin_as_clips_text_layers(self, clips: Path, tmp_path: Path, head: str) -> None:
        """The tiny CLIP's text is as wide as its joint space only where it is made so."""
        from clip.model import CLIP

        torch.manual_seed(0)
        square = CLIP(64, 64, 1, 64, 16, 77, 49408, 64, 1, 3)
        torch.save(square.state_dict(), tmp_path / "clip.pt")
        options = {"sim_header": head, "pretrained_clip_name": str(tmp_path / "clip.pt"), "linear_patch": "3d"}
        model = build_retrieval(end_to_end(clips, tmp_path / "out", **options), None, [], torch.device("cpu"))
        assert torch.equal(model.head.positions, square.positional_embedding)
        own = square.transformer.state_dict()
        begun = model.head.transformer.state_dict()
        assert len(begun) == 2 * 12
        assert all(torch.equal(begun[name], own[name]) for name in begun)
        # The same beside stored features of that CLIP, where 90 frames need more positions than it has.
        stored = RetrievalTrainConfig(
            data=tmp_path, caption=[clips / "captions.csv"], text_encoder=str(tmp_path / "clip.pt"), dim=0,
            sim_header=head, cross_num_hidden_layers=2, max_frames=90, precision="fp32", device="cpu",
        )  # fmt: skip
        store = SimpleNamespace(shape=lambda name: SimpleNamespace(dim=64))
        training = [VideoRecord("clip0", "train", ["a dog"])]
        beside = build_retrieval(stored, store, training, torch.device("cpu"))
        assert torch.equal(beside.head.positions[:77], square.positional_embedding)
        assert len(beside.head.positions) == 91
        begun = beside.head.transformer.state_dict()
        assert len(begun) == 2 * 12
        assert all(torch.equal(begun[name], own[name]) for name in begun)

    def test_rates_and_frozen_layers(self, clips: Path, tmp_path: Path) -> None:
        """With a vanishing --coef_lr CLIP stays and the head moves; what is frozen never moves."""
        options = {
            "sim_header": "seqLSTM",
            "epochs": 2,
            "eval_every": 0,
            "weight_decay": 0.0,
        }  # the first step has rate 0
        train_retrieval(end_to_end(clips, tmp_path / "a", coef_lr=1e-9, **options))
        train_retrieval(end_to_end(clips, tmp_path / "b", coef_lr=1.0, linear_patch="3d", **options))
        start = torch.load(clips / "clip.pt", weights_only=True)
        slow, fast = (load_file(tmp_path / name / "last" / "model.safetensors") for name in "ab")
        for name, weight in start.items():
            torch.testing.assert_close(slow[f"clip.network.{name}"], weight, atol=1e-6, rtol=0)
        moved = {name for name, weight in start.items() if not torch.equal(fast[f"clip.network.{name}"], weight)}
        assert "visual.proj" in moved
        assert not moved & {"token_embedding.weight", "visual.class_embedding", "visual.conv1.weight"}
        assert fast["clip.network.visual.conv2.weight"][:, :, 0].any()

    def test_init_from_may_change_the_patches(
        self, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        still = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "eval_every": 0}
        train_retrieval(end_to_end(clips, tmp_path / "2d", sim_header="seqTransf", epochs=1, eval_every=0))
        begun = {"init_from": tmp_path / "2d", "pretrained_clip_name": None, "cross_num_hidden_layers": None}
        train_retrieval(
            end_to_end(clips, tmp_path / "3d", **(still | begun | {"linear_patch": "3d", "sim_header": "seqTransf"}))
        )
        said = capsys.readouterr().err
        assert "--linear_patch 3d: visual.conv2.weight begins as visual.conv1.weight in the middle frame" in said
        flat, deep = (load_retrieval(tmp_path / name)[0] for name in ("2d", "3d"))
        assert (deep.config.linear_patch, deep.config.sim_header) == ("3d", "seqTransf")
        for name, weight in flat.state_dict().items():
            torch.testing.assert_close(deep.state_dict()[name], weight, atol=1e-6, rtol=0)
        frames = torch.randint(0, 256, (1, 3, 3, 64, 64), dtype=torch.uint8)
        mask = torch.ones(1, 3, dtype=torch.bool)
        assert flat.clip is not None
        assert deep.clip is not None
        with torch.no_grad():  # before the convolution has learnt anything, it sees what the flat one does
            same = flat.clip.encode_frames(frames, mask)
            torch.testing.assert_close(deep.clip.encode_frames(frames, mask), same, rtol=1e-4, atol=1e-4)

        back = begun | {"init_from": tmp_path / "3d"}
        train_retrieval(end_to_end(clips, tmp_path / "back", **(still | back | {"sim_header": "meanP"})))
        said = capsys.readouterr().err
        assert "--linear_patch 2d: visual.conv2.weight of --init_from has no place" in said
        assert "tensors of --init_from have no place (head.positions" in said
        assert load_retrieval(tmp_path / "back")[0].config.linear_patch == "2d"

    def test_only_the_first_seconds_are_read(self, clips: Path) -> None:
        """Frames at 0, 0.5, ..., 2.5 s of a video of 2.5 s; as CLIP4Clip does with 31 of DiDeMo's."""
        spec = SamplingSpec("uniform", 100, 2.0)

        def count(seconds: float) -> int:
            source = DecodedFrames({"a": clips / "videos" / "clip5.mp4"}, spec, lambda frames: frames, 1, seconds)
            (frames,) = source.load(["a"])
            assert frames is not None
            return len(frames)

        assert [count(seconds) for seconds in (0, 1, 1.4, 99)] == [5, 3, 3, 5]

    def test_a_bad_video_sits_out(self, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        videos = tmp_path / "videos"
        videos.mkdir()
        for file in (clips / "videos").iterdir():
            (videos / file.name).symlink_to(file)
        (videos / "clip1.mp4").unlink()
        (videos / "clip1.mp4").write_bytes(b"no video")
        summary = train_retrieval(end_to_end(clips, tmp_path / "out", videos=[videos], epochs=2, eval_every=0))
        assert summary.finished
        assert capsys.readouterr().err.count("left out: ") == 1
