"""Captioners that learn to find their captions as they learn to write them: `--retrieval_loss`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import clipcap_video.training.run as captioning
from clipcap_video.features.layouts import open_features
from clipcap_video.models.checkpoint import load_checkpoint
from clipcap_video.training.config import TrainConfig
from tests.bag_of_words import BagOfWords, use_bag_of_words
from tests.conftest import TinyProject
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
    assert (joint[0].config.text_dim, alone[0].config.text_dim) == (24, 0)
    assert not any(name.startswith("to_text") for name in alone[0].state_dict())
    store = open_features(tiny_project.data)
    features = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(store.load(f"video{number}").features) for number in range(12)], batch_first=True
    )
    mask = features.abs().sum(-1) > 0
    text = BagOfWords().encode_text([captions_of(number)[0] for number in range(12)])
    with torch.no_grad():
        video = joint[0].to_text(joint[0].mapping(features, mask).mean(1))
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
        model = run.bare_model.eval()  # the language model drops out in training
        prefix = model.mapping(batch.features, batch.mask)
        parts = model._caption_loss(prefix, batch, 0.0), model.retrieval_loss(prefix, batch)
        total = model(batch, 0.0, 0.5)
        seen.append([float(part.detach()) for part in (*parts, total)])
        return total

    monkeypatch.setattr(captioning.CaptioningRun, "loss", watching)
    captioning.train(TrainConfig(**values))
    captions, contrast, total = seen[0]
    assert total == pytest.approx(captions + 0.5 * contrast, rel=1e-5)
    assert contrast > 1
