"""A run that is stopped and resumed, beside one that was never stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clipcap_video.training.loop as loop
from clipcap_video.training.loop import TrainingSummary
from clipcap_video.training.run import train


def differing_weights(
    config_of: Callable[..., Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    train: Callable[[Any], TrainingSummary] = train,
) -> list[str]:
    """Trains `config_of(out, resume=...)` whole in folder/whole, and stopped after so many steps in folder/parts.

    Returns the names of the weights in which the two `last` checkpoints differ by a bit or more.
    """
    train(config_of(folder / "whole"))
    step = loop.Run._step

    def interrupting(run: Any, batches: Any) -> float:
        loss = step(run, batches)
        if run.progress.step + 1 == stop_after:
            signal.raise_signal(signal.SIGINT)
        return loss

    monkeypatch.setattr(loop.Run, "_step", interrupting)
    summary = train(config_of(folder / "parts"))
    assert (summary.finished, summary.steps) == (False, stop_after)
    monkeypatch.setattr(loop.Run, "_step", step)
    assert train(config_of(folder / "parts", resume=True)).finished
    whole, parts = (_weights(folder / name / "last") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    return [name for name in whole if not torch.equal(whole[name], parts[name])]


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.name}: {name}": tensor
        for file in sorted(checkpoint.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
