"""Retrieval runs on stored features and end to end, and their options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clipcap_video.retrieval.train as retrieval
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.model import RetrievalModel, load_retrieval, read_retrieval_config
from clipcap_video.retrieval.train import train_retrieval
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.retrieval.conftest import Command, config, end_to_end

HEADS = ("meanP", "seqLSTM", "seqTransf", "tightTransf")


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
