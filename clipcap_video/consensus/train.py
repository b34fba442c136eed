"""Training of the consensus network that re-ranks a captioner's hypotheses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
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
from clipcap_video.runs.record import record_run
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

    words = [[caption_words(text) for text in record.captions] for record in training]
    table = NgramTable.of(words, config.ngrams)
    feature_dim = store.shape(training[0].video_id).dim
    network = ConsensusConfig(feature_dim, config.hidden, config.dropout)
    ranker = ConsensusRanker(network, table)
    device = pick_device(config.device)
    pooled = _pooled(ranker, store, training, model_config.max_frames)
    ranker.mean, ranker.std = pooled.mean(0), pooled.std(0) + 1e-3
    inputs = ((pooled - ranker.mean) / ranker.std).to(device)
    targets = torch.stack([ranker.targets(lists) for lists in words])
    print(
        f"{len(training):,} videos, {sum(map(len, words)):,} captions, {len(table.ngrams):,} n-grams on {device}",
        file=sys.stderr,
    )
    rankers = []
    for number in range(config.networks):
        rankers.append(ConsensusRanker(network, table).to(device))
        rankers[-1].mean, rankers[-1].std = ranker.mean.to(device), ranker.std.to(device)
        _fit(rankers[-1], inputs, targets, config, number)
    ranker = ConsensusRanker.folded([ranker.cpu() for ranker in rankers])
    if validation:
        shares = torch.stack([ranker.targets(map(caption_words, record.captions)) for record in validation])
        loss = _mean_loss(ranker(_pooled(ranker, store, validation, model_config.max_frames)), shares)
        blind = _mean_loss(_logit(targets.mean(0)).expand_as(shares), shares)
        print(f"validation cross-entropy {loss:.5f}; {blind:.5f} without a look at the video", file=sys.stderr)
    file = checkpoint / CONSENSUS
    # First, for a run that is killed in between would not know its own network again.
    record_run(file, "train-consensus", config)
    ranker.save(file)
    return file, store, validation


def _logit(shares: Tensor) -> Tensor:
    return shares.clamp(1e-5, 1 - 1e-5).logit()


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


def _fit(ranker: ConsensusRanker, inputs: Tensor, targets: Tensor, config: ConsensusTrainConfig, number: int) -> None:
    """Cross-entropy of every n-gram's share, on mixtures of videos (mixup: Zhang et al., arXiv 1710.09412).

    number: 0, 1, ..., which of the networks it is.
    """
    device = inputs.device
    seed = config.seed * config.networks + number
    torch.manual_seed(seed)
    for layer in ranker.layers:
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    last = ranker.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():  # begins with what is said of any video
        last.bias.copy_(_logit(targets.mean(0)))
    optimizer = make_optimizer(parameter_groups([(ranker.parameters(), config.lr)], config.weight_decay), config.lr)
    random = np.random.default_rng(seed)
    starts = range(0, len(inputs), config.bs)
    steps = len(starts) * config.epochs
    step = 0
    ranker.train()
    label = f"network {number + 1}/{config.networks}"
    with trange(config.epochs, desc=label, unit="epoch", disable=None) as epochs:
        for _ in epochs:
            order = torch.from_numpy(random.permutation(len(inputs)))
            for start in starts:
                set_learning_rate(optimizer, 1 - step / steps)
                batch = order[start : start + config.bs]
                x, y = inputs[batch.to(device)], targets[batch].to(device)
                if config.mixup:
                    share = float(random.beta(config.mixup, config.mixup))
                    other = torch.from_numpy(random.permutation(len(batch))).to(device)
                    x, y = share * x + (1 - share) * x[other], share * y + (1 - share) * y[other]
                loss = F.binary_cross_entropy_with_logits(ranker(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
    ranker.eval()
