"""Dropout that parts of a batch can draw side by side: each from a generator of its own, so that runs can be repeated.

The generator of torch itself is one for all threads, and what a thread is given then depends on who came first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _Thread(threading.local):
    generator: torch.Generator | None = None


_thread = _Thread()


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Lets this thread draw what is dropped from a generator that begins with `seed`."""
    _thread.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _thread.generator = None


def kept(like: Tensor, share: float) -> Tensor:
    """Which of `like` stay when each is dropped with probability `share`: bool, of its shape."""
    return torch.empty_like(like, dtype=torch.bool).bernoulli_(1 - share, generator=_thread.generator)


class OwnDropout(nn.Dropout):
    """nn.Dropout that draws from the thread's generator where it has one."""

    def forward(self, x: Tensor) -> Tensor:
        if _thread.generator is None or not self.training or self.p == 0:
            return super().forward(x)
        mask = torch.empty_like(x).bernoulli_(1 - self.p, generator=_thread.generator).div_(1 - self.p)
        return x * mask


def own_dropouts(language_model: Any) -> bool:
    """Exchanges the dropouts of a language model for OwnDropout. Returns whether there is no other in it."""
    for parent in list(language_model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, OwnDropout(child.p).train(child.training))
    config = language_model.config.to_dict()
    shares = [value for name, value in config.items() if "drop" in name and isinstance(value, float)]
    # Others than GPT-2 may drop by a function, which nobody can exchange.
    return config.get("model_type") == "gpt2" or not any(shares)
