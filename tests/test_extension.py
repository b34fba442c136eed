"""A new thing of each kind is one file, this one, and one line: its entry in a registry. The package knows of none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import clipcap_video.datasets.registry as readers
import clipcap_video.encoders as encoders
from clipcap_video.captioning.captioner import Captioner
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.encoders import Family
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics import java
from clipcap_video.metrics.base import Figures, Metric, Tokens, mean_figures
from clipcap_video.metrics.captioning import describe_scores, save_scores, score_captions
from clipcap_video.metrics.registry import METRICS
from clipcap_video.models.base import TOKENIZER, CaptionModel, ModelConfig, TrainingFacts
from clipcap_video.models.checkpoint import load_checkpoint, objective_weights, pack_checkpoint
from clipcap_video.models.language_model import load_tokenizer
from clipcap_video.models.mapping import MAPPING_NETWORKS
from clipcap_video.models.mapping.base import MappingConfig, MappingNetwork
from clipcap_video.models.options import ModelOptions
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.models.registry import CAPTIONERS
from clipcap_video.models.vocabulary import word_tokenizer
from clipcap_video.runs.options import option
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import CaptionData
from clipcap_video.training.objectives.base import Objective
from clipcap_video.training.objectives.options import ObjectiveOptions
from clipcap_video.training.objectives.registry import OBJECTIVES
from clipcap_video.training.run import train
from tests.clips import write_clip
from tests.commands import refused, run
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.tiny import captions_of


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)


def config(project: TinyProject, out: Path, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "epochs": 2, "bs": 5, "lr": 3e-3,
        "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**(options | changes))


def small(project: TinyProject) -> dict[str, Any]:
    return {"lm": str(project.lm), "num_layers": 1, "prefix_length": 4}


# --- encoder --------------------------------------------------------------------------------------------------


class MeanColour(ImageEncoder):
    """The mean of each colour."""

    name, dim, preprocessing, weights_digest = "mean-colour", 3, "none", "sha256:none"
    device, precision = torch.device("cpu"), "fp32"

    def preprocess(self, frames: Tensor) -> Tensor:
        return frames

    def encode_images(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3))


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> ImageEncoder:
    return MeanColour()


def test_an_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoders, "FAMILIES", [*encoders.FAMILIES, Family("tests.test_extension", ("mean-colour",))])
    write_clip(tmp_path / "a.mp4", frames=6)
    done = run(
        "extract_features.py", "--videos", tmp_path / "a.mp4", "--out", tmp_path / "features", "--encoder",
        "mean-colour", "--frames", "3", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = open_features(tmp_path / "features")
    assert store.fingerprint is not None
    assert (store.fingerprint.encoder, store.load("a").features.shape) == ("mean-colour", (3, 3))
    assert "mean-colour" in refused("extract_features.py", "--videos", tmp_path / "a.mp4", "--encoder", "x")


# --- data set -------------------------------------------------------------------------------------------------


class Haiku:
    """Blocks of lines: an id with its split in brackets, then captions, up to a line of dashes."""

    def matches(self, source: Source) -> bool:
        return source.text.startswith("haiku\n")

    def read(self, source: Source) -> list[VideoRecord]:
        blocks = source.text.removeprefix("haiku\n").split("---\n")
        found = [block.strip().splitlines() for block in blocks if block.strip()]
        names = [lines[0].rstrip("]").split(" [") for lines in found]
        return [VideoRecord(name, split, lines[1:]) for (name, split), lines in zip(names, found, strict=True)]


def test_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(readers, "READERS", [Haiku(), *readers.READERS])
    file = tmp_path / "frogs.haiku"
    file.write_text("haiku\npond [train]\nan old silent pond\na frog jumps in\n---\nrain [test]\nrain falls\n")
    assert read_annotations([file]) == [
        VideoRecord("pond", "train", ["an old silent pond", "a frog jumps in"]),
        VideoRecord("rain", "test", ["rain falls"]),
    ]


# --- mapping network ------------------------------------------------------------------------------------------


class Repeat(MappingNetwork):
    """The mean frame, through a layer, P times."""

    def __init__(self, config: MappingConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.feature_dim, config.embedding_dim)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.linear(mean)[:, None].expand(-1, self.config.prefix_length, -1)


def test_a_mapping_network(monkeypatch: pytest.MonkeyPatch, tiny_project: TinyProject, tmp_path: Path) -> None:
    monkeypatch.setitem(MAPPING_NETWORKS, "repeat", Repeat)
    done = run(
        "train_vtt.py", "--data", tiny_project.data, "--caption", tiny_project.caption, "--lm", tiny_project.lm,
        "--out_dir", tmp_path / "out", "--mapping_type", "repeat", "--epochs", "1", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    captioner = Captioner.from_pretrained(tmp_path / "out", device="cpu")
    assert captioner.model.describe()["mapping network"] == "repeat, 10 prefix tokens"
    assert captioner.caption_store(open_features(tiny_project.data), ["video30"])[0].captions[0].logprob < 0
    infer = ("inference_vtt.py", "--model_dir", tmp_path / "out", "--data", tiny_project.data)
    assert "contradicts" in refused(*infer, "--mapping_type", "cross", "--device", "cpu")
    assert run(*infer, "--mapping_type", "repeat", "--device", "cpu").returncode == 0
    for command in ("train_vtt.py", "inference_vtt.py"):
        assert "repeat" in run(command, "--help").stdout


# --- metric ---------------------------------------------------------------------------------------------------


class Brevity(Metric):
    """One divided by the number of words."""

    def score(self, hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> Figures:
        scores = {video: 1 / max(1, len(tokens[0].split())) for video, tokens in hypotheses.items()}
        return mean_figures("Brevity", scores, weights)


class Oracle(Metric):
    """What cannot be had."""

    def missing(self, java: bool) -> str | None:
        return "the oracle is silent"

    def score(self, hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> Figures:
        raise AssertionError


def test_a_metric(monkeypatch: pytest.MonkeyPatch, tiny_project: TinyProject, tmp_path: Path) -> None:
    monkeypatch.setitem(METRICS, "Brevity", Brevity)
    monkeypatch.setitem(METRICS, "Oracle", Oracle)
    predictions, references = {"a": "a dog", "b": "a cat sleeps here"}, {"a": ["a dog"], "b": ["a cat"]}
    scores = score_captions(predictions, references, bootstrap=200)
    assert scores["Brevity"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert scores.intervals["Brevity"] == pytest.approx((1 / 4, 1 / 2))
    assert scores.missing == ["METEOR", "Oracle"]
    assert describe_scores(scores).splitlines()[-1] == "the oracle is silent"
    save_scores(scores, tmp_path / "scores.json", None)
    assert json.loads((tmp_path / "scores.json").read_text())["Brevity"] == scores["Brevity"]

    out = tmp_path / "out"
    summary = train(config(tiny_project, out, **small(tiny_project), best_by="Brevity", lm_lr=1e-3, epochs=3))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = max(line["val_Brevity"] for line in lines if "val_Brevity" in line)
    progress = json.loads((out / "best" / "config.json").read_text())["progress"]
    assert summary.best_score == best == progress["val_Brevity"] == progress["best_score"]
    assert all("val_CIDEr" in line for line in lines if "val_loss" in line)
    with pytest.raises(ClipcapError, match=r"--best_by Oracle cannot be computed here .the oracle is silent."):
        train(config(tiny_project, tmp_path / "x", **small(tiny_project), best_by="Oracle"))
    with pytest.raises(ClipcapError, match=r"--best_by METEOR cannot be computed here .Java is not installed"):
        train(config(tiny_project, tmp_path / "x", **small(tiny_project), best_by="METEOR"))
    with pytest.raises(ClipcapError, match=r"--best_by must be one of .*Brevity"):
        config(tiny_project, tmp_path / "x", best_by="Length")
    with pytest.raises(ClipcapError, match="started with --best_by Brevity"):
        train(config(tiny_project, out, **small(tiny_project), lm_lr=1e-3, epochs=3, resume=True))


# --- objective ------------------------------------------------------------------------------------------------


@dataclass
class CalmOptions(ObjectiveOptions):
    objective_class = "tests.test_extension:Calm"

    calm: float = option(0.1, "Weight of the penalty.", needs={"objective": "calm"}, least=0)


class Calm(Objective):
    """Cross-entropy, and a penalty on the distance of the mean prefix from a point that is learned."""

    def __init__(self, captioner: CaptionModel, weight: float) -> None:
        super().__init__(captioner)
        self.weight = weight
        self.centre = nn.Parameter(torch.zeros(captioner.config.mapping.embedding_dim))

    @classmethod
    def build(
        cls, config: Any, captioner: CaptionModel, data: CaptionData, records: Sequence[VideoRecord]
    ) -> Objective:
        return cls(captioner, config.calm)

    def forward(self, batch: PackedCaptions) -> Tensor:
        prefix = self.captioner.mapping(batch.features, batch.mask)
        distance = (prefix.mean(1) - self.centre).square().mean()
        return self.captioner.caption_loss(prefix, batch) + self.weight * distance

    def logged(self) -> dict[str, float]:
        return {"centre": float(self.centre.detach().norm())}


def test_an_objective(monkeypatch: pytest.MonkeyPatch, tiny_project: TinyProject, tmp_path: Path) -> None:
    monkeypatch.setitem(OBJECTIVES, "calm", CalmOptions)

    def config_of(out: Path, **more: Any) -> TrainConfig:
        return config(tiny_project, out, **small(tiny_project), objective="calm", calm=0.5, **more)

    assert differing_weights(config_of, tmp_path, monkeypatch, 7) == []
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-2]["centre"] > 0
    assert objective_weights(tmp_path / "parts" / "last")["centre"].norm() == pytest.approx(lines[-2]["centre"])
    load_checkpoint(tmp_path / "parts" / "last")
    assert "--calm belongs to --objective calm" in refused("train_vtt.py", "--calm", "1")
    assert "--calm" in run("train_vtt.py", "--help").stdout


# --- captioner ------------------------------------------------------------------------------------------------

_of_bigram = partial(option, needs={"model": "bigram"})


@dataclass
class BigramOptions(ModelOptions):
    captioner = "tests.test_extension:BigramCaptioner"

    rank: int = _of_bigram(4, "Width of a word.", least=1, fixed=True)

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"lr": 0.05}


@dataclass(frozen=True)
class BigramConfig(ModelConfig):
    feature_dim: int
    max_frames: int
    words: int
    rank: int


class BigramCaptioner(CaptionModel):
    """The next word from the last one and the mean frame."""

    kind = "bigram"

    def __init__(self, config: BigramConfig, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.embedding = nn.Embedding(config.words + 1, config.rank)
        self.video = nn.Linear(config.feature_dim, config.rank)
        self.output = nn.Linear(config.rank, config.words)

    @classmethod
    def build(cls, config: Any, facts: TrainingFacts) -> BigramCaptioner:
        tokenizer = word_tokenizer(facts.captions, 1)
        torch.manual_seed(config.seed)
        return cls(BigramConfig(facts.feature_dim, facts.max_frames, len(tokenizer), config.rank), tokenizer)

    @classmethod
    def read_config(cls, raw: dict[str, Any]) -> BigramConfig:
        return BigramConfig(**raw)

    @classmethod
    def load(cls, config: BigramConfig, checkpoint: Path, language_model: str | None) -> BigramCaptioner:
        return cls(config, load_tokenizer(checkpoint / TOKENIZER))

    @property
    def feature_dim(self) -> int:
        return self.config.feature_dim

    @property
    def max_frames(self) -> int:
        return self.config.max_frames

    @property
    def vocabulary_size(self) -> int:
        return self.config.words

    def output_layer(self) -> tuple[Tensor, Tensor | None]:
        return self.output.weight, self.output.bias

    def describe(self) -> dict[str, str]:
        return {"network": f"bigram of rank {self.config.rank}"}

    def read(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.video((features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))  # [B, R]

    def forward(self, batch: PackedCaptions, label_smoothing: float = 0.0) -> Tensor:
        rows, columns = batch.label_row, batch.label_column
        words = batch.tokens[rows, columns.clamp(min=0)]
        words = words.where(columns >= 0, torch.full_like(words, self.config.words))
        hidden = torch.tanh(self.embedding(words) + self.read(batch.features, batch.mask)[rows])
        return self._mean_loss(hidden, torch.arange(len(hidden)), batch, label_smoothing)

    def start(self, features: Tensor, mask: Tensor, max_tokens: int) -> Any:
        return BigramDecoding(self, self.read(features, mask))


class BigramDecoding:
    def __init__(self, model: BigramCaptioner, video: Tensor) -> None:
        self.model, self.video = model, video

    def begin(self) -> Tensor:
        starts = torch.full((len(self.video),), self.model.config.words)
        return self.model.output(torch.tanh(self.model.embedding(starts) + self.video)).float()

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        return self.model.output(torch.tanh(self.model.embedding(tokens) + self.video[:, None])).float()

    def keep(self, rows: Tensor) -> None:
        self.video = self.video[rows]


def test_a_captioner(monkeypatch: pytest.MonkeyPatch, tiny_project: TinyProject, tmp_path: Path) -> None:
    monkeypatch.setitem(CAPTIONERS, "bigram", BigramOptions)

    def config_of(out: Path, **more: Any) -> TrainConfig:
        return config(tiny_project, out, model="bigram", rank=24, epochs=30, eval_every=30, lr=None, **more)

    assert config_of(tmp_path).lr == 0.05
    assert differing_weights(config_of, tmp_path, monkeypatch, 7) == []
    captioner = Captioner.from_pretrained(tmp_path / "parts", device="cpu")
    assert captioner.describe()["network"] == "bigram of rank 24"
    numbers = range(30, 36)
    found = captioner.caption_store(open_features(tiny_project.data), [f"video{number}" for number in numbers])
    known = [Counter(text) for number in numbers for text in captions_of(number)]
    assert any(Counter(prediction.text) in known for prediction in found)
    pack_checkpoint(tmp_path / "parts" / "last", tmp_path / "packed")
    assert asdict(load_checkpoint(tmp_path / "packed")[0].config)["rank"] == 24
    assert load_file(tmp_path / "packed" / "model.safetensors")["embedding.weight"].dtype == torch.float16
    # It goes on by self-critical training, as every kind does.
    again = {"objective": "scst", "init_from": tmp_path / "parts", "samples": 2, "lr": 1e-3, "epochs": 1}
    assert train(config(tiny_project, tmp_path / "scst", **again)).finished
    # The options of others are refused, and its own with others.
    assert "--rank belongs to --model bigram" in refused("train_vtt.py", "--rank", "2")
    assert "--lm belongs to --model prefix" in refused("train_vtt.py", "--model", "bigram", "--lm", "x")
    infer = ("inference_vtt.py", "--model_dir", tmp_path / "parts", "--data", tiny_project.data, "--device", "cpu")
    assert "has no such option, for it is of --model bigram" in refused(*infer, "--num_layers", "8")
    done = run(*infer, "--use_beam_search", "--out", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    with monkeypatch.context() as patch:
        patch.delitem(CAPTIONERS, "bigram")
        with pytest.raises(ClipcapError, match="is of a 'bigram' model, which this version does not know"):
            load_checkpoint(tmp_path / "parts" / "last")
