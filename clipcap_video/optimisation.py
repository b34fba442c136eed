"""Optimiser, learning rates and the rule that neither depends on when the run was interrupted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def parameter_groups(
    parts: Iterable[tuple[Iterable[nn.Parameter], float]], weight_decay: float
) -> list[dict[str, object]]:
    """Groups for AdamW: each part of a model at its own peak rate; vectors (biases, norms) without decay."""
    groups = []
    for parameters, peak in parts:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.dim() >= 2]
        vectors = [parameter for parameter in trained if parameter.dim() < 2]
        groups += [
            {"params": matrices, "peak_lr": peak, "weight_decay": weight_decay},
            {"params": vectors, "peak_lr": peak, "weight_decay": 0.0},
        ]
    return [group for group in groups if group["params"]]


def make_optimizer(groups: list[dict[str, object]], lr: float, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW in one pass over the weights: a fifth of the time that the plain one takes for GPT-2 on a CPU."""
    return torch.optim.AdamW(groups, lr=lr, eps=eps, fused=True)


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


def cosine_factor(step: int, warmup: float, total_steps: int) -> float:
    """CLIP4Clip's share of the peak rate: linear from 0 over the first `warmup` of the run, then half a cosine.

    The cosine counts from the beginning of the run, so that the rate steps down a little where the warm-up ends.
    """
    done = step / total_steps
    return done / warmup if done < warmup else (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def seed_step(seed: int, step: int, process: int = 0) -> None:
    """Makes dropout a function of seed, step and process, so that a resumed run draws what it would have drawn."""
    torch.manual_seed(hash((seed, step, process)) & 0x7FFF_FFFF_FFFF_FFFF)


class WeightAverage:
    """The exponential moving average of a model's trained weights (Polyak and Juditsky 1992), beside the weights.

    decay: the share of the average that stays at each step. Early on it is less, (1 + n) / (10 + n) after n steps,
    so that the average does not drag the first weights along.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._average = [parameter.detach().clone() for parameter in self._trained]
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights after an optimiser step in."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for average, parameter in zip(self._average, self._trained, strict=True):
            average.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A block in which the model has the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, parameter in zip(self._average, self._trained, strict=True):
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)

    def latest(self) -> dict[str, object]:
        """What `resume` needs, called inside `in_place`: the weights of the last step."""
        return {"steps": self._steps, "weights": [weights.cpu() for weights in self._average]}

    @torch.no_grad()
    def resume(self, latest: dict[str, object]) -> None:
        """Takes the weights that the model has for the average, and gives it those of the last step."""
        weights: Sequence[Tensor] = latest["weights"]  # type: ignore[assignment]
        self._steps = int(latest["steps"])  # type: ignore[call-overload]
        for average, parameter, last in zip(self._average, self._trained, weights, strict=True):
            average.copy_(parameter)
            parameter.copy_(last)
