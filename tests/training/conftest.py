"""Small runs, and one long enough to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipcap_video.training.config import TrainConfig
from clipcap_video.training.loop import TrainingSummary
from clipcap_video.training.run import train
from tests.conftest import TinyProject


def config(project: TinyProject, out: Path, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "lm": str(project.lm), "epochs": 2,
        "bs": 5, "num_layers": 2, "prefix_length": 4, "lr": 3e-3, "lm_lr": 1e-3, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    if "only_prefix" in changes:
        del options["lm_lr"]
    return TrainConfig(**(options | changes))


@pytest.fixture(scope="session")
def finished(tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingSummary]:
    """A run long enough to learn, with the language model fine-tuned."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, train(
        config(tiny_project, out, epochs=40, eval_every=20, save_every=15, dropout=0.0, lr=5e-3, lm_lr=5e-3)
    )


def options(project: TinyProject, out: Path, **changes: object) -> TrainConfig:
    values: dict = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "lm": str(project.lm), "epochs": 2, "bs": 9,
        "num_layers": 1, "prefix_length": 2, "only_prefix": True, "precision": "fp32", "device": "cpu", "save_every": 0,
    }  # fmt: skip
    return TrainConfig(**(values | changes))
