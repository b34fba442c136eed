"""The fit of a consensus network, from what the frames show and what people say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from clipcap_video.consensus.config import FitConfig
from clipcap_video.consensus.network import ConsensusConfig, ConsensusRanker, pooled_frames
from clipcap_video.consensus.table import NgramTable
from clipcap_video.features.base import FeatureStore, stack_features, thin_frames
from clipcap_video.optimisation import make_optimizer, parameter_groups, set_learning_rate

# The words of each caption of each video, by `caption_words`.
Lists = Sequence[Sequence[Sequence[str]]]


@dataclass
class FitData:
    """Training videos. table: what is predicted; mean, std: [2D], of the pooled features of the first annotation file.

    inputs: [n, 2D], standardised; shares: [n, G], of people who use each n-gram; origins: [n, O], one-hot, the
    annotation file of each.
    """

    table: NgramTable
    mean: Tensor
    std: Tensor
    inputs: Tensor
    shares: Tensor
    origins: Tensor

    @classmethod
    def of(cls, words: Lists, origins: np.ndarray, pooled: Tensor, ngrams: int) -> FitData:
        """words, origins (0, 1, ... without a gap), pooled [n, 2D]: of each video. ngrams: of the first file."""
        table = _table(words, origins, ngrams)
        first = pooled[torch.from_numpy(origins == 0)]
        mean, std = first.mean(0), first.std(0) + 1e-3
        targets = ConsensusRanker(ConsensusConfig(pooled.shape[1] // 2, hidden_dim=1), table).targets
        shares = torch.stack([targets(lists) for lists in words])
        return cls(table, mean, std, (pooled - mean) / std, shares, F.one_hot(torch.from_numpy(origins)).float())

    @property
    def usual(self) -> Tensor:
        """[O, G]: the logits of what is said of any video of each annotation file."""
        means = (self.origins.T @ self.shares) / self.origins.sum(0)[:, None]
        return means.clamp(1e-5, 1 - 1e-5).logit()

    def mixed(self, rows: Tensor, others: Tensor | None, share: float) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, shares and origins of some rows, mixed with those of as many others."""
        device = self.inputs.device
        parts = [part[rows.to(part.device)].to(device) for part in (self.inputs, self.shares, self.origins)]
        if others is not None:
            more = [part[others.to(part.device)].to(device) for part in (self.inputs, self.shares, self.origins)]
            parts = [share * one + (1 - share) * other for one, other in zip(parts, more, strict=True)]
        return parts[0], parts[1], parts[2]


def fit(data: FitData, config: FitConfig, device: torch.device, label: str = "network") -> ConsensusRanker:
    """Several networks from as many seeds, folded into one; on the CPU, in eval mode. label: for their bars."""
    data = replace(data, inputs=data.inputs.to(device))
    network = ConsensusConfig(data.inputs.shape[1] // 2, config.hidden, config.dropout)
    rankers = []
    for number in range(config.networks):
        ranker = ConsensusRanker(network, data.table)
        ranker.mean, ranker.std = data.mean, data.std
        _fit(ranker.to(device), data, config, number, f"{label} {number + 1}/{config.networks}")
        rankers.append(ranker.cpu())
    return ConsensusRanker.folded(rankers)


def pooled_videos(store: FeatureStore, video_ids: Sequence[str], max_frames: int) -> Tensor:
    """What `pooled_frames` makes of each video, [n, 2D], from the frames that a captioner sees."""
    parts = []
    for start in range(0, len(video_ids), 256):
        videos = store.load_many(video_ids[start : start + 256])
        parts.append(pooled_frames(*stack_features([thin_frames(video, max_frames).features for video in videos])))
    return torch.cat(parts)


def _table(words: Lists, origins: np.ndarray, size: int) -> NgramTable:
    """The n-grams of the first annotation file, by which CIDEr is expected, and then those that only others have."""
    table = NgramTable.of([lists for lists, origin in zip(words, origins, strict=True) if origin == 0], size)
    others = [lists for lists, origin in zip(words, origins, strict=True) if origin]
    return table.extended(NgramTable.of(others, size), size // 4) if others else table


def _fit(ranker: ConsensusRanker, data: FitData, config: FitConfig, number: int, label: str) -> None:
    """Cross-entropy of every n-gram's share, on mixtures of videos (mixup: Zhang et al., arXiv 1710.09412).

    Videos of several annotation files share the network but for both biases; those of the first are kept. No file
    counts more than the first, however many videos it has.
    number: 0, 1, ..., which of the networks it is.
    """
    usual = data.usual.to(data.inputs.device)
    seed = config.seed * config.networks + number
    torch.manual_seed(seed)
    for layer in ranker.layers:
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    hidden, last = ranker.layers[1], ranker.layers[-1]
    assert isinstance(hidden, torch.nn.Linear)
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():  # begins with what is said of any video
        last.bias.copy_(usual[0])
    # What the biases of other files differ by from those of the first.
    more = [nn.Parameter(usual[1:] - usual[0]), nn.Parameter(usual.new_zeros(len(usual) - 1, config.hidden))]
    groups = parameter_groups([(ranker.parameters(), config.lr)], config.weight_decay)
    groups += parameter_groups([(more, config.lr)], 0.0) if len(usual) > 1 else []
    optimizer = make_optimizer(groups, config.lr)
    videos = data.origins.sum(0).to(data.inputs.device)
    weight = (videos[0] / videos).clamp(max=1)
    random = np.random.default_rng(seed)
    count = len(data.inputs)
    starts = range(0, count, config.bs)
    steps = len(starts) * config.epochs
    step = 0
    ranker.train()
    with trange(config.epochs, desc=label, unit="epoch", disable=None) as epochs:
        for _ in epochs:
            order = torch.from_numpy(random.permutation(count))
            for start in starts:
                set_learning_rate(optimizer, 1 - step / steps)
                batch = order[start : start + config.bs]
                share, other = 1.0, None
                if config.mixup:
                    share = float(random.beta(config.mixup, config.mixup))
                    other = batch[torch.from_numpy(random.permutation(len(batch)))]
                x, y, origin = data.mixed(batch, other, share)
                logits = _logits(ranker, x, origin[:, 1:], more)
                losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none").mean(1)
                loss = losses @ (origin @ weight) / len(batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
    ranker.eval()


def _logits(ranker: ConsensusRanker, inputs: Tensor, origin: Tensor, more: Sequence[Tensor]) -> Tensor:
    """What the network says of inputs [b, 2D] whose shares of other files than the first are `origin` [b, O - 1]."""
    if not origin.shape[1]:
        return ranker(inputs)
    drop, hidden, *rest, last = ranker.layers
    inside = hidden(drop(inputs)) + origin @ more[1]
    for layer in rest:
        inside = layer(inside)
    return last(inside) + origin @ more[0]
