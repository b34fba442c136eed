"""Optimiser, learning rates and the rule that neither depends on when the run was interrupted."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from clipcap_video.models.captioner import PrefixCaptioner


def parameter_groups(model: PrefixCaptioner, lr: float, lm_lr: float, weight_decay: float) -> list[dict[str, object]]:
    """Groups for AdamW: the language model at its own rate; vectors (biases, norms) without decay."""

    def split(parameters: Iterable[nn.Parameter], peak: float) -> list[dict[str, object]]:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.dim() >= 2]
        vectors = [parameter for parameter in trained if parameter.dim() < 2]
        return [
            {"params": matrices, "peak_lr": peak, "weight_decay": weight_decay},
            {"params": vectors, "peak_lr": peak, "weight_decay": 0.0},
        ]

    groups = split(model.mapping.parameters(), lr) + split(model.language_model.parameters(), lm_lr)
    return [group for group in groups if group["params"]]


def warmup_length(warmup_steps: int, total_steps: int) -> int:
    """Steps of warm-up: what was asked for, never beyond the run; -1 is a twentieth of the run."""
    return min(warmup_steps, total_steps) if warmup_steps >= 0 else total_steps // 20


def learning_rate_factor(step: int, warmup: int, total_steps: int, from_zero: bool = False) -> float:
    """Share of the peak rate in step 0, 1, ...: linear up over the warm-up, linear down to nothing at the end.

    from_zero: the first step of the warm-up has rate 0, as in the ClipCap programs.
    """
    if step < warmup:
        if from_zero:
            return step / warmup
        return (step + 1) / (warmup + 1)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def seed_step(seed: int, step: int, process: int = 0) -> None:
    """Makes dropout a function of seed, step and process, so that a resumed run draws what it would have drawn."""
    torch.manual_seed(hash((seed, step, process)) & 0x7FFF_FFFF_FFFF_FFFF)
