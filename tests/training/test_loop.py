from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clipcap_video.training.loop as loop
from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import load_checkpoint
from clipcap_video.models.options import REFERENCE_RECIPE
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.loop import TrainingSummary
from clipcap_video.training.run import train
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.tiny import captions_of
from tests.training.conftest import config


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class TestWhatARunLeaves:
    def test_checkpoints_and_metrics(self, finished: tuple[Path, TrainingSummary]) -> None:
        out, summary = finished
        names = {path.name for path in out.iterdir()}
        assert names == {
            "best", "last", "prefix-014", "prefix-029", "prefix-039", "metrics.jsonl", "curves.png", "run.yaml",
        }  # fmt: skip
        assert summary.finished
        assert summary.steps == 40 * 5  # 24 videos in batches of 5
        lines = metrics(out)
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, 201))
        assert [line["epoch"] for line in lines if "val_loss" in line] == [20, 40]

    def test_it_learned_to_say_what_the_features_show(self, finished: tuple[Path, TrainingSummary]) -> None:
        out, summary = finished
        losses = [line["loss"] for line in metrics(out) if "loss" in line]
        # What is left is which of three captions comes: at most ln 3 a caption, over 6 tokens or more.
        assert losses[-1] < 0.5 < 5 < losses[0]
        assert summary.best_score is not None
        assert summary.best_score > 3.0

    def test_the_best_is_the_one_with_the_highest_score(self, finished: tuple[Path, TrainingSummary]) -> None:
        out, summary = finished
        scores = [line["val_CIDEr"] for line in metrics(out) if "val_CIDEr" in line]
        saved = json.loads((out / "best" / "config.json").read_text())["progress"]
        assert summary.best_score == max(scores) == saved["val_CIDEr"]


@pytest.mark.parametrize(
    ("model", "stop_after"),
    [(model, stop) for model in ({}, {"only_prefix": True}) for stop in (2, 5, 7)] + [({"lora_rank": 3}, 7)],
)
def test_a_stopped_and_resumed_run_ends_in_the_same_weights(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], stop_after: int
) -> None:
    """Stopped within an epoch, at its end and in the next; dropout and shuffling on; equal to the last bit."""
    options: dict[str, Any] = {**model, "dropout": 0.2, "captions_per_video": 2, "grad_accum": 1}

    def config_of(out: Path, **resume: Any) -> TrainConfig:
        return config(tiny_project, out, **options, **resume)

    assert differing_weights(config_of, tmp_path, monkeypatch, stop_after) == []

    def lines(name: str) -> list[dict[str, Any]]:
        return [{**line, "tokens_per_second": 0} for line in metrics(tmp_path / name)]

    assert lines("whole") == lines("parts")


def test_only_prefix_leaves_the_language_model_alone(tiny_project: TinyProject, tmp_path: Path) -> None:
    before = load_file(tiny_project.lm / "model.safetensors")
    train(config(tiny_project, tmp_path / "out", only_prefix=True, epochs=1))
    weights = load_file(tmp_path / "out" / "last" / "model.safetensors")
    assert all(name.startswith("mapping.") for name in weights)
    model, _ = load_checkpoint(tmp_path / "out" / "last")
    after = model.language_model.state_dict()
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []


def test_adapters_are_all_that_is_learned_and_kept(tiny_project: TinyProject, tmp_path: Path) -> None:
    before = load_file(tiny_project.lm / "model.safetensors")
    train(config(tiny_project, tmp_path / "out", lora_rank=3, epochs=2))
    weights = load_file(tmp_path / "out" / "last" / "model.safetensors")
    adapters = {name: tensor for name, tensor in weights.items() if not name.startswith("mapping.")}
    width, layers, rank = 32, 2, 3
    # Of each layer: queries, keys and values as one, the projection, and the perceptron up and down.
    sizes = [width + 3 * width, width + width, width + 4 * width, 4 * width + width]
    assert sum(tensor.numel() for tensor in adapters.values()) == layers * rank * sum(sizes)
    assert all(tensor.abs().max() > 0 for name, tensor in adapters.items() if "lora_B" in name)

    model, _ = load_checkpoint(tmp_path / "out" / "last")
    after = model.language_model.state_dict()
    names = {
        name: name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias") for name in before
    }
    moved = [
        name
        for name, tensor in before.items()
        if not torch.equal(tensor, after[name] if name in after else after[names[name]])
    ]
    assert moved == []
    # What the adapters add is as LoRA has it: x A' B' times 2 / sqrt(rank).
    layer = model.language_model.transformer.h[1].attn.c_attn
    x = torch.randn(4, width)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer(x) + 2 / math.sqrt(rank) * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected)


def test_the_language_model_learns_at_its_own_rate(tiny_project: TinyProject, tmp_path: Path) -> None:
    """With a vanishing lm_lr the language model stays, though it is trained, and the mapping network moves."""
    train(config(tiny_project, tmp_path / "out", lm_lr=1e-12, weight_decay=0.0, epochs=1))
    model, _ = load_checkpoint(tmp_path / "out" / "last")
    before = load_file(tiny_project.lm / "model.safetensors")
    for name, tensor in model.language_model.state_dict().items():
        if name in before:
            torch.testing.assert_close(tensor, before[name], atol=1e-9, rtol=0)


def test_accumulated_batches_equal_one_large_batch(tiny_project: TinyProject, tmp_path: Path) -> None:
    """With as many labels in every batch, the mean of the batch means is the mean: the weights agree."""
    same = {"epochs": 1, "dropout": 0.0, "only_prefix": True, "eval_every": 0, "max_caption_tokens": 2}
    for name, options in (("small", {"bs": 4, "grad_accum": 3}), ("large", {"bs": 12, "grad_accum": 1})):
        train(config(tiny_project, tmp_path / name, **same, **options))
    small, large = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("small", "large"))
    for name in small:
        torch.testing.assert_close(small[name], large[name], atol=2e-4, rtol=0)


class TestReferenceRecipe:
    def test_is_that_programs(self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        step = loop.Run._step

        def watching(run: Any, batches: Any) -> float:
            seen.append((run, batches))
            return step(run, batches)

        monkeypatch.setattr(loop.Run, "_step", watching)
        options = config(tiny_project, tmp_path / "out").to_json()
        for name in ("out_dir", "recipe", *REFERENCE_RECIPE):
            options.pop(name)
        reference = TrainConfig(**options, out_dir=tmp_path / "out", recipe="reference")
        assert (reference.lr, reference.lm_lr, reference.dropout, reference.weight_decay) == (2e-5, 2e-5, 0.0, 0.0)
        assert TrainConfig(recipe="reference", lr=1e-3).lr == 1e-3
        train(reference)

        run = seen[0][0]
        tokenizer = run.captioner.tokenizer
        assert len(seen) == 2 * 4  # 24 videos fill four batches of five, and four are left over
        for _, (batch,) in seen:
            assert len(batch.features) == 5
            assert batch.caption.max() == 0  # one caption a video
            assert not (batch.labels == 0).any()
        first = {tuple(tokenizer(captions_of(number)[0])["input_ids"]) for number in range(24)}
        assert {tuple(tokens) for (tokens,) in run.order.data.captions} == first
        # The warm-up of 5,000 steps begins at a rate of nothing and is not shortened.
        assert [line["lr"] for line in metrics(tmp_path / "out") if "lr" in line] == pytest.approx(
            [2e-5 * number / 5000 for number in range(8)]
        )
        model, _ = load_checkpoint(tmp_path / "out" / "last")
        assert model.stop_tokens == tokenizer(".")["input_ids"][:1]
        names = {name for name in model.mapping.state_dict() if "layers" not in name}
        assert names == {"prefix_const", "frames.linear.weight", "frames.linear.bias"}

    def test_needs_one_whole_batch(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        with pytest.raises(ClipcapError, match=r"24 videos fill none of 40; lower --bs"):
            train(config(tiny_project, tmp_path / "out", recipe="reference", bs=40))


def test_the_run_ends_when_its_time_is_up(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch, with all that an end leaves; and it can go on with more time."""
    clock = iter(range(0, 10**6, 10))  # two looks at it a step in _step, two around it: 30 seconds a step
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(clock)))
    summary = train(config(tiny_project, tmp_path / "out", max_minutes=3.4))
    assert (summary.finished, summary.steps) == (True, 7)
    assert summary.best_score is not None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "best", "last", "prefix-000", "prefix-001", "metrics.jsonl", "curves.png", "run.yaml",
    }  # fmt: skip
    lines = metrics(tmp_path / "out")
    assert [line["step"] for line in lines if "val_loss" in line] == [5, 7]
    summary = train(config(tiny_project, tmp_path / "out", max_minutes=0, resume=True))
    assert (summary.finished, summary.steps) == (True, 10)
    assert [line["step"] for line in metrics(tmp_path / "out") if "loss" in line] == list(range(1, 11))


def test_a_loss_that_is_not_finite_stops_the_run(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = PrefixCaptioner.forward
    calls = []

    def exploding(model: Any, batch: Any, *options: float) -> torch.Tensor:
        calls.append(1)
        return forward(model, batch, *options) * (math.nan if len(calls) > 7 else 1)

    monkeypatch.setattr(PrefixCaptioner, "forward", exploding)
    with pytest.raises(ClipcapError, match="loss became nan in step 8"):
        train(config(tiny_project, tmp_path / "out", eval_every=0))
    weights = load_file(tmp_path / "out" / "last" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
