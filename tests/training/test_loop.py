from __future__ import annotations

import json
import math
import shutil
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import clipcap_video.training.loop as loop
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.models.checkpoint import load_checkpoint
from clipcap_video.models.options import REFERENCE_RECIPE
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.optimisation import learning_rate_factor, warmup_length
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import CaptionData, EpochOrder
from clipcap_video.training.loop import TrainingSummary
from clipcap_video.training.run import train
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.tiny import captions_of, features_of, fingerprint, write_annotations, write_feature_folder


def config(project: TinyProject, out: Path, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "lm": str(project.lm), "epochs": 2,
        "bs": 5, "num_layers": 2, "prefix_length": 4, "lr": 3e-3, "lm_lr": 1e-3, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    if "only_prefix" in changes:
        del options["lm_lr"]
    return TrainConfig(**(options | changes))


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingSummary]:
    """A run long enough to learn, with the language model fine-tuned."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, train(
        config(tiny_project, out, epochs=40, eval_every=20, save_every=15, dropout=0.0, lr=5e-3, lm_lr=5e-3)
    )


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


class TestOrder:
    def data(self, project: TinyProject, captions: int = 5) -> CaptionData:
        store = open_features(project.data)
        return CaptionData(
            store, store.ids()[:7], [[[video, turn] for turn in range(captions)] for video in range(7)], 9
        )

    def test_every_video_once_an_epoch_in_another_order_each_time(self, tiny_project: TinyProject) -> None:
        order = EpochOrder(self.data(tiny_project), 3, 0, seed=0)
        first, second = order.batches(0), order.batches(1)
        assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(7))
        assert first != second
        assert first == EpochOrder(self.data(tiny_project), 3, 0, seed=0).batches(0)
        assert first != EpochOrder(self.data(tiny_project), 3, 0, seed=1).batches(0)

    def test_captions_take_turns_until_all_were_used(self, tiny_project: TinyProject) -> None:
        order = EpochOrder(self.data(tiny_project), 3, captions_per_video=2, seed=0)
        used = [caption[1] for epoch in range(5) for caption in order.captions(epoch, 3)]
        assert sorted(used) == sorted(2 * list(range(5)))
        assert len(set(used[:5])) == 5
        everything = EpochOrder(self.data(tiny_project), 3, 0, seed=0)
        assert [caption[1] for caption in everything.captions(4, 3)] == [0, 1, 2, 3, 4]


class TestLearningRate:
    def test_warmup_never_exceeds_the_run(self) -> None:
        assert warmup_length(5000, 120) == 120
        assert warmup_length(30, 120) == 30
        assert warmup_length(-1, 120) == 6
        assert warmup_length(0, 120) == 0

    @pytest.mark.parametrize("warmup", [0, 1, 10, 50])
    def test_rises_then_falls_and_never_stands_still(self, warmup: int) -> None:
        factors = [learning_rate_factor(step, warmup, 50) for step in range(50)]
        assert all(0 < factor <= 1 for factor in factors)
        peak = max(range(50), key=factors.__getitem__)
        assert peak == min(warmup, 49)
        assert all(a < b for a, b in pairwise(factors[: peak + 1]))
        assert all(a > b for a, b in pairwise(factors[peak:]))


class TestBadInput:
    def refused(self, project: TinyProject, out: Path, match: str, **changes: Any) -> None:
        with pytest.raises(ClipcapError, match=match) as error:
            train(config(project, out, **changes))
        assert "\n" not in str(error.value)
        assert not out.exists()

    def test_missing_parts(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        out = tmp_path / "out"
        self.refused(tiny_project, out, "no features at", data=tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        self.refused(tiny_project, out, "no features in folder", data=tmp_path / "empty")
        self.refused(tiny_project, out, r"nowhere\.json", caption=[tmp_path / "nowhere.json"])
        self.refused(tiny_project, out, "cannot read the language model", lm=str(tmp_path / "empty"))
        self.refused(tiny_project, out, "no GGUF file", lm=str(tmp_path / "x.gguf"))
        self.refused(tiny_project, out, "no split 'dev2'", train_split="dev2")

    def test_ids_that_do_not_meet(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        other = write_annotations(tmp_path / "a.json", range(100, 103), range(0))
        self.refused(tiny_project, tmp_path / "out", "no video of .* has features", caption=[other])

    def test_left_out_videos_are_counted_and_named(
        self, tiny_project: TinyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        annotations = write_annotations(tmp_path / "a.json", range(5), range(30, 32), range(90, 91))
        train(config(tiny_project, tmp_path / "out", caption=[annotations], epochs=1, eval_every=0))
        said = capsys.readouterr().err
        assert "1 annotated video (video90) without features" in said
        assert "29 videos (video5, video6, video7, ...) with features but no annotations" in said

    def test_features_of_two_encoders(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        folder = write_feature_folder(tmp_path / "features", range(6))
        features = features_of(3)
        write_features(folder, "video3", features, features[:, 0], fingerprint(encoder="other", weights="sha256:1"))
        self.refused(tiny_project, tmp_path / "out", "features of two kinds.*other.*tiny", data=folder)

    def test_resnet_features_are_640_wide(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        self.refused(tiny_project, tmp_path / "out", "640-wide.*16 wide", is_rn=True)

    @pytest.mark.parametrize(
        "changes",
        [
            {"epochs": 0},
            {"lr": 0.0},
            {"lr": math.nan},
            {"dropout": 1.0},
            {"prefix": "a/b"},
            {"warmup_steps": -2},
            {"max_minutes": -1},
            {"clip_norm": math.nan},
        ],
    )
    def test_options_without_sense(self, tiny_project: TinyProject, tmp_path: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(ClipcapError, match=f"--{next(iter(changes))}"):
            config(tiny_project, tmp_path, **changes)

    def test_a_run_is_never_written_over(
        self, tiny_project: TinyProject, finished: tuple[Path, TrainingSummary]
    ) -> None:
        out, _ = finished
        before = (out / "metrics.jsonl").read_bytes()
        with pytest.raises(ClipcapError, match="already holds a run"):
            train(config(tiny_project, out))
        with pytest.raises(ClipcapError, match=r"started with --dropout 0.0, --lm_lr 0.005, --epochs 40, --lr 0.005"):
            train(config(tiny_project, out, resume=True))
        assert (out / "metrics.jsonl").read_bytes() == before

    def test_a_run_resumes_on_its_own_data_and_language_model_only(
        self, tiny_project: TinyProject, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        train(config(tiny_project, out, epochs=1, only_prefix=True, eval_every=0))
        fewer = write_annotations(tmp_path / "a.json", range(20), range(24, 30), range(30, 36))
        again = {"epochs": 1, "only_prefix": True, "eval_every": 0, "resume": True}
        with pytest.raises(ClipcapError, match="other videos or captions"):
            train(config(tiny_project, out, caption=[fewer], **again))
        other = tmp_path / "features"
        for number in range(36):
            other.mkdir(exist_ok=True)
            features = features_of(number)
            write_features(other, f"video{number}", features, features[:, 0], fingerprint(normalized=True))
        with pytest.raises(
            ClipcapError, match="are normalised features, but the model was trained on features that are not"
        ):
            train(config(tiny_project, out, data=other, **again))
        shutil.copytree(tiny_project.lm, tmp_path / "lm")
        weights = load_file(tmp_path / "lm" / "model.safetensors")
        save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "lm" / "model.safetensors")
        saved = out / "last" / "config.json"
        text = saved.read_text()
        saved.write_text(text.replace(str(tiny_project.lm.resolve()), str((tmp_path / "lm").resolve())))
        with pytest.raises(ClipcapError, match="is not the one that the run"):
            train(config(tiny_project, out, lm=str(tmp_path / "lm"), **again))
        saved.write_text(text)
        assert train(config(tiny_project, out, **again)).finished

    def test_a_loss_that_is_not_finite_stops_the_run(
        self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
