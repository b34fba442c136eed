"""Training of the consensus network that re-ranks a captioner's hypotheses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.consensus.fit import FitData, fit, pooled_videos
from clipcap_video.datasets.cleaning import fix_captions
from clipcap_video.datasets.matching import annotated, training_and_validation
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import pick_device
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.fingerprint import check_fingerprints
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.cider import caption_words
from clipcap_video.models.checkpoint import CONSENSUS, find_checkpoint, read_config
from clipcap_video.runs.record import record_file, record_run
from clipcap_video.training.consensus_config import ConsensusTrainConfig


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
    device = pick_device(config.device)
    pooled = pooled_videos(store, [record.video_id for record in training], model_config.max_frames)
    known = FitData.of(words, origins, pooled, config.ngrams)
    print(
        f"{len(training):,} videos, {sum(map(len, words)):,} captions, {len(known.table.ngrams):,} n-grams on {device}",
        file=sys.stderr,
    )
    ranker = fit(known, config.fit, device)
    ranker.config = replace(ranker.config, rerank=config.rerank)
    if validation:
        shares = torch.stack([ranker.targets(map(caption_words, record.captions)) for record in validation])
        pooled = pooled_videos(store, [record.video_id for record in validation], model_config.max_frames)
        loss = _mean_loss(ranker((pooled - known.mean) / known.std), shares)
        blind = _mean_loss(known.usual[0].expand_as(shares), shares)
        print(f"validation cross-entropy {loss:.5f}; {blind:.5f} without a look at the video", file=sys.stderr)
    file = checkpoint / CONSENSUS
    # First, for a run that is killed in between would not know its own network again.
    record_run(record_file(file), "train-consensus", config)
    ranker.save(file)
    return file, store, validation


@torch.inference_mode()
def _mean_loss(logits: Tensor, shares: Tensor) -> float:
    return F.binary_cross_entropy_with_logits(logits, shares).item()
