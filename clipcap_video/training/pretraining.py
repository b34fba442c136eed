"""Training of a language model on captions alone, before it is shown any video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from clipcap_video import console
from clipcap_video.devices import autocast, pick_device, pick_precision
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.mapping.base import MappingConfig, MappingNetwork
from clipcap_video.models.packing import pack
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.models.prefix_config import CaptionerConfig
from clipcap_video.optimisation import (
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
    seed_step,
    set_learning_rate,
    warmup_length,
)

# Captions stand behind a prefix of this length, as they will behind that of a video.
PREFIX_LENGTH = 10
CAPTIONS_A_ROW = 16
ROWS = 16
LONGEST = 40  # tokens
WEIGHT_DECAY = 0.01


class _ConstantPrefix(MappingNetwork):
    """Is told nothing of a video: the same learned prefix before every caption."""

    def __init__(self, config: MappingConfig) -> None:
        super().__init__(config)
        self.prefix = nn.Parameter(0.02 * torch.randn(config.prefix_length, config.embedding_dim))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.prefix.expand(len(features), -1, -1)


def pretrain(
    language_model: Any,
    tokenizer: Any,
    captions: Sequence[str],
    *,
    epochs: int,
    lr: float,
    seed: int,
    device: str = "auto",
) -> float:
    """Trains a causal language model, in place, to write captions: cross-entropy, behind a constant prefix.

    lr: peak learning rate; it rises over a twentieth of the run and falls to nothing. The same captions and seed give
    the same weights. Returns the mean loss of the last hundred steps, nats a token.
    """
    place = pick_device(device)
    precision = pick_precision(place, "auto")
    torch.manual_seed(seed)
    model = _without_video(language_model, tokenizer).to(place).train()
    encoded = model.encode_captions(list(captions), LONGEST)
    size = CAPTIONS_A_ROW * ROWS
    starts = range(0, len(encoded), size)
    steps = len(starts) * epochs
    warmup = warmup_length(-1, steps)
    optimizer = make_optimizer(parameter_groups([(model.parameters(), lr)], WEIGHT_DECAY), lr)
    losses: list[float] = []
    with tqdm(total=steps, desc="language model", unit="step", disable=console.hides_bars()) as bar:
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(encoded))
            for start in starts:
                chosen = [encoded[index] for index in order[start : start + size]]
                rows = [chosen[first : first + CAPTIONS_A_ROW] for first in range(0, len(chosen), CAPTIONS_A_ROW)]
                seed_step(seed, len(losses))
                set_learning_rate(optimizer, learning_rate_factor(len(losses), warmup, steps))
                with autocast(place, precision):
                    loss = model(pack([np.zeros((1, 1), np.float32)] * len(rows), rows).to(place))
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(loss.item())
                bar.update()
    language_model.cpu().eval()
    return float(np.mean(losses[-100:]))


def _without_video(language_model: Any, tokenizer: Any) -> CaptionModel:
    width = language_model.get_input_embeddings().weight.shape[1]
    mapping = MappingConfig("mlp", 1, width, PREFIX_LENGTH, 1)
    captioner = PrefixCaptioner(CaptionerConfig(mapping, "", "", only_prefix=False), language_model, tokenizer)
    captioner.mapping = _ConstantPrefix(mapping)
    return captioner
