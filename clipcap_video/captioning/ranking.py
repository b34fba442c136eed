"""Hypotheses in the order of the checkpoint's consensus network, with what it expects of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from clipcap_video.consensus.network import ConsensusRanker
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.cider import caption_words
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import CONSENSUS


def load_ranker(source: Path, feature_dim: int, device: torch.device) -> ConsensusRanker | None:
    """The network in the checkpoint `source`, None where it has none. Raises ClipcapError when it does not fit."""
    file = source / CONSENSUS
    if not file.is_file():
        return None
    ranker = ConsensusRanker.load(file)
    if ranker.config.feature_dim != feature_dim:
        raise ClipcapError(
            f"{file} reads features {ranker.config.feature_dim} wide and the captioner beside it "
            f"{feature_dim}; make it anew with clipcap-video train-consensus --model_dir {source}"
        )
    return ranker.to(device)


def rank(
    ranker: ConsensusRanker,
    model: CaptionModel,
    features: torch.Tensor,
    mask: torch.Tensor,
    candidates: list[list[Hypothesis]],
    count: int,
) -> list[list[Hypothesis]]:
    """The `count` hypotheses of each video of which most is expected; whole captions come before broken ones.

    features: [B, T, D]; mask: [B, T] bool.
    """
    words = [
        [caption_words(model.decode_tokens(one.tokens, one.stop_token), one.ended) for one in hypotheses]
        for hypotheses in candidates
    ]
    ranked = []
    for hypotheses, judgements in zip(candidates, ranker.judge(features, mask, words), strict=True):
        judged = sorted(
            zip(hypotheses, judgements, strict=True), key=lambda pair: (pair[0].ended, pair[1].merit), reverse=True
        )
        ranked.append(
            [
                replace(one, expected_cider=judgement.cider, support=judgement.support)
                for one, judgement in judged[:count]
            ]
        )
    return ranked
