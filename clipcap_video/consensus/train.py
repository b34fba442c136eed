"""Training of the consensus network that re-ranks a captioner's hypotheses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from clipcap_video.consensus.config import ConsensusTrainConfig
from clipcap_video.consensus.network import ConsensusConfig, ConsensusRanker, NgramTable
from clipcap_video.datasets.cleaning import fix_captions
from clipcap_video.datasets.matching import annotated, training_and_validation
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import pick_device
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore, stack_features, thin_frames
from clipcap_video.features.fingerprint import check_fingerprints
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.cider import caption_words
from clipcap_video.models.checkpoint import CONSENSUS, find_checkpoint, read_config
from clipcap_video.runs.record import record_file, record_run
from clipcap_video.training.optimisation import make_optimizer, parameter_groups, set_learning_rate


def train_consensus(config: ConsensusTrainConfig) -> tuple[Path, FeatureStore, list[VideoRecord]]:
    """Trains a consensus network for a captioner, on the captioner's own features, and puts it into its checkpoint.

    Returns its file, the features and the validation split. Raises ClipcapError on bad input, before anything is
    written.
    """
    checkpoint = find_checkpoint(config.model_dir)
    if not checkpoint.is_dir():
        raise ClipcapError(f"{checkpoint} is of a ClipCap program; turn it into a folder with clipcap-video convert")
    model_config, info = read_config(checkpoint)
    data, caption = config.data, config.caption
    if data is None and "data" in info.training:
        data = Path(info.training["data"])
    if not caption:
        caption = [Path(path) for path in info.training.get("caption", [])]
    if data is None or not caption:
        raise ClipcapError(f"{checkpoint} does not say what it was trained on; give --features and --annotations")
    store = open_features(data)
    check_fingerprints(info.fingerprint, store.fingerprint, str(data))
    records = annotated(caption, store.ids(), str(data), bool(info.training.get("paragraphs")))
    training, validation = training_and_validation(records, config.train_split, config.eval_split)
    if len(training) < 2:
        raise ClipcapError(
            f"fewer than two videos of split {config.train_split!r} have features in {data} and captions; "
            "there is nothing to agree on"
        )
    if not config.raw_captions:
        training = fix_captions(training)

    several = bool(info.training.get("origin_token"))
    # Of the files that have training videos, the first is 0.
    files, origins = np.unique([record.origin if several else 0 for record in training], return_inverse=True)
    validation = [record for record in validation if not several or record.origin == files[0]]
    words = [[caption_words(text) for text in record.captions] for record in training]
    table = _table(words, origins, config.ngrams)
    feature_dim = store.shape(training[0].video_id).dim
    network = ConsensusConfig(feature_dim, config.hidden, config.dropout)
    ranker = ConsensusRanker(network, table)
    device = pick_device(config.device)
    pooled = _pooled(ranker, store, training, model_config.max_frames)
    first = pooled[origins == 0]
    ranker.mean, ranker.std = first.mean(0), first.std(0) + 1e-3
    videos = _Data(
        ((pooled - ranker.mean) / ranker.std).to(device),
        torch.stack([ranker.targets(lists) for lists in words]),
        F.one_hot(torch.from_numpy(origins)).float(),
    )
    print(
        f"{len(training):,} videos, {sum(map(len, words)):,} captions, {len(table.ngrams):,} n-grams on {device}",
        file=sys.stderr,
    )
    rankers = []
    for number in range(config.networks):
        rankers.append(ConsensusRanker(network, table).to(device))
        rankers[-1].mean, rankers[-1].std = ranker.mean.to(device), ranker.std.to(device)
        _fit(rankers[-1], videos, config, number)
    ranker = ConsensusRanker.folded([ranker.cpu() for ranker in rankers])
    if validation:
        shares = torch.stack([ranker.targets(map(caption_words, record.captions)) for record in validation])
        loss = _mean_loss(ranker(_pooled(ranker, store, validation, model_config.max_frames)), shares)
        blind = _mean_loss(videos.usual[0].expand_as(shares), shares)
        print(f"validation cross-entropy {loss:.5f}; {blind:.5f} without a look at the video", file=sys.stderr)
    file = checkpoint / CONSENSUS
    # First, for a run that is killed in between would not know its own network again.
    record_run(record_file(file), "train-consensus", config)
    ranker.save(file)
    return file, store, validation


@dataclass
class _Data:
    """Training videos. inputs: [n, 2D], standardised; shares: [n, G], of people who use each n-gram; origins: [n, O],
    one-hot, the annotation file of each.
    """

    inputs: Tensor
    shares: Tensor
    origins: Tensor

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


def _table(words: Sequence[Sequence[Sequence[str]]], origins: np.ndarray, size: int) -> NgramTable:
    """The n-grams of the first annotation file, by which CIDEr is expected, and then those that only others have."""
    table = NgramTable.of([lists for lists, origin in zip(words, origins, strict=True) if origin == 0], size)
    others = [lists for lists, origin in zip(words, origins, strict=True) if origin]
    return table.extended(NgramTable.of(others, size), size // 4) if others else table


@torch.inference_mode()
def _mean_loss(logits: Tensor, shares: Tensor) -> float:
    return F.binary_cross_entropy_with_logits(logits, shares).item()


def _pooled(ranker: ConsensusRanker, store: FeatureStore, records: Sequence[VideoRecord], max_frames: int) -> Tensor:
    """What `ranker.pool` makes of each video, [n, 2D], from the frames that the captioner sees."""
    parts = []
    for start in range(0, len(records), 256):
        videos = store.load_many([record.video_id for record in records[start : start + 256]])
        parts.append(ranker.pool(*stack_features([thin_frames(video, max_frames).features for video in videos])))
    return torch.cat(parts)


def _fit(ranker: ConsensusRanker, data: _Data, config: ConsensusTrainConfig, number: int) -> None:
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
    label = f"network {number + 1}/{config.networks}"
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
