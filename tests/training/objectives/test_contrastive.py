"""Captioners that learn to find their captions as they learn to write them: `--retrieval_loss`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import clipcap_video.training.run as captioning
from clipcap_video.features.layouts import open_features
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import load_checkpoint, objective_weights, pack_checkpoint
from clipcap_video.training.config import TrainConfig
from tests.bag_of_words import BagOfWords, use_bag_of_words
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.tiny import captions_of


@pytest.fixture(autouse=True)
def _bag_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bag_of_words(monkeypatch)


def test_the_prefix_learns_to_find_its_captions(tiny_project: TinyProject, tmp_path: Path) -> None:
    """The contrastive loss falls below that of guessing among five videos, and captions are learned as well."""

    def options(out: str, **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "data": tiny_project.data, "caption": [tiny_project.caption], "out_dir": tmp_path / out,
            "lm": str(tiny_project.lm), "epochs": 6, "bs": 5, "num_layers": 1, "prefix_length": 4, "lr": 3e-3,
            "lm_lr": 1e-3, "precision": "fp32", "device": "cpu", "dropout": 0.0, "eval_every": 6, "save_every": 0,
            "text_encoder": "bag-of-words", "retrieval_loss": 1.0,
        }  # fmt: skip
        return TrainConfig(**(values | changes))

    captioning.train(options("joint"))
    captioning.train(options("alone", retrieval_loss=None, text_encoder=None))
    joint, alone = (load_checkpoint(tmp_path / name / "last") for name in ("joint", "alone"))
    own, none = (objective_weights(tmp_path / name / "last") for name in ("joint", "alone"))
    assert (own["to_text.weight"].shape[0], none) == (24, {})
    assert not any(name.startswith("to_text") for name in joint[0].state_dict())
    store = open_features(tiny_project.data)
    features = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(store.load(f"video{number}").features) for number in range(12)], batch_first=True
    )
    mask = features.abs().sum(-1) > 0
    text = BagOfWords().encode_text([captions_of(number)[0] for number in range(12)])
    with torch.no_grad():
        pooled = joint[0].mapping(features, mask).mean(1)
        video = pooled @ own["to_text.weight"].T + own["to_text.bias"]
    closest = torch.cosine_similarity(text[:, None], video[None], dim=-1).argmax(1)
    assert (closest == torch.arange(12)).float().mean() > 0.6
    assert joint[1].progress["val_loss"] == pytest.approx(alone[1].progress["val_loss"], abs=0.6)


def test_the_loss_is_the_sum(tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "data": tiny_project.data, "caption": [tiny_project.caption], "out_dir": tmp_path / "out", "epochs": 1,
        "lm": str(tiny_project.lm), "bs": 24, "num_layers": 1, "prefix_length": 4, "precision": "fp32",
        "device": "cpu", "dropout": 0.0, "eval_every": 0, "text_encoder": "bag-of-words", "retrieval_loss": 0.5,
    }  # fmt: skip
    seen: list[list[float]] = []

    def watching(run: Any, batch: Any) -> Tensor:
        objective = run.objective.eval()  # the language model drops out in training
        prefix = run.captioner.mapping(batch.features, batch.mask)
        parts = run.captioner(batch), objective.retrieval_loss(prefix, batch)
        total = objective(batch)
        seen.append([float(part.detach()) for part in (*parts, total)])
        return total

    monkeypatch.setattr(captioning.CaptioningRun, "loss", watching)
    captioning.train(TrainConfig(**values))
    captions, contrast, total = seen[0]
    assert total == pytest.approx(captions + 0.5 * contrast, rel=1e-5)
    assert contrast > 1


def test_captions_are_tokenised_once(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    encode = CaptionModel.encode_captions

    def counting(model: CaptionModel, captions: list[str], max_tokens: int) -> list[list[int]]:
        asked.append(len(captions))
        return encode(model, captions, max_tokens)

    monkeypatch.setattr(CaptionModel, "encode_captions", counting)
    run, _ = captioning.prepare(
        TrainConfig(
            data=tiny_project.data,
            caption=[tiny_project.caption],
            out_dir=tmp_path / "out",
            lm=str(tiny_project.lm),
            num_layers=1,
            prefix_length=4,
            device="cpu",
            text_encoder="bag-of-words",
            retrieval_loss=0.5,
        )
    )
    assert asked == [24 * 3, 6 * 3]  # training, validation
    expected = BagOfWords().encode_text([text for texts in run.train_data.texts for text in texts])
    (batch,) = run.load([[7, 2]])
    rows = [3 * video + turn for video in (7, 2) for turn in range(3)]
    assert torch.equal(batch.text, expected[rows])
    assert batch.text_row.tolist() == [0, 0, 0, 1, 1, 1]


def test_its_weights_are_kept_resumed_and_started_from(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config_of(out: Path, **more: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "data": tiny_project.data, "caption": [tiny_project.caption], "out_dir": out, "epochs": 2, "bs": 5,
            "precision": "fp32", "device": "cpu", "text_encoder": "bag-of-words", "retrieval_loss": 0.5,
            "eval_every": 0,
        }  # fmt: skip
        if "init_from" not in more:
            values |= {"lm": str(tiny_project.lm), "num_layers": 1, "prefix_length": 4}
        return TrainConfig(**values, **more)

    assert differing_weights(config_of, tmp_path, monkeypatch, 7) == []
    whole, parts = (objective_weights(tmp_path / name / "last") for name in ("whole", "parts"))
    assert sorted(whole) == ["logit_scale", "to_text.bias", "to_text.weight"]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    started, _ = captioning.prepare(config_of(tmp_path / "again", init_from=tmp_path / "whole"))
    assert all(torch.equal(whole[name], tensor) for name, tensor in started.objective.own_weights().items())
    pack_checkpoint(tmp_path / "whole" / "last", tmp_path / "packed")
    torch.testing.assert_close(
        objective_weights(tmp_path / "packed")["to_text.bias"].float(), whole["to_text.bias"], atol=1e-3, rtol=1e-2
    )
