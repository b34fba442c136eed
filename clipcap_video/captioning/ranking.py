"""Hypotheses in the order of the checkpoint's consensus network, with what it expects of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from clipcap_video.consensus.caution import Words, cautious_forms
from clipcap_video.consensus.network import Calibration, ConsensusRanker, Judgement
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.cider import caption_words
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import CONSENSUS

# The words of a caption, and the hypothesis that has them; None for a form of another.
_Entry = tuple[Words, Hypothesis | None]


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
    settings: DecodingSettings,
) -> list[list[Hypothesis]]:
    """The `num_return` hypotheses of each video of which most is expected; whole captions come before broken ones.

    features: [B, T, D]; mask: [B, T] bool. With caution, shorter and more general forms of the hypotheses compete too.
    """
    caution = ranker.caution if settings.caution is None else settings.caution
    calibration = ranker.config.calibration(caution) or Calibration(caution)
    entries: list[list[_Entry]] = [
        [(tuple(caption_words(model.decode_tokens(one.tokens, one.stop_token), one.ended)), one) for one in hypotheses]
        for hypotheses in candidates
    ]
    if caution and model.whole_captions:
        for row in entries:
            whole = [words for words, one in row if one is not None and one.ended]
            row += [(form, None) for form in cautious_forms(whole, ranker.known, ranker.rarity_of)]
    judgements = ranker.judge(features, mask, [[words for words, _ in row] for row in entries])
    chosen = [_best(row, judged, caution, settings.num_return) for row, judged in zip(entries, judgements, strict=True)]
    forms = [(video, words) for video, row in enumerate(chosen) for words, one, _ in row if one is None]
    written = dict(zip(forms, _written(model, features, mask, forms, settings), strict=True))
    return [
        [
            replace(
                written[video, words] if one is None else one,
                expected_cider=judgement.cider,
                support=judgement.support,
                probability=calibration.probability(judgement.sureness),
                unsure=ranker.is_unsure(judgement, caution),
            )
            for words, one, judgement in row
        ]
        for video, row in enumerate(chosen)
    ]


def _best(
    entries: Sequence[_Entry], judgements: Sequence[Judgement], caution: float, count: int
) -> list[tuple[Words, Hypothesis | None, Judgement]]:
    judged = [(words, one, judgement) for (words, one), judgement in zip(entries, judgements, strict=True)]
    judged.sort(key=lambda entry: (entry[1] is None or entry[1].ended, entry[2].merit(caution)), reverse=True)
    return judged[:count]


def _written(
    model: CaptionModel,
    features: torch.Tensor,
    mask: torch.Tensor,
    forms: Sequence[tuple[int, Words]],
    settings: DecodingSettings,
) -> list[Hypothesis]:
    """Forms as if the model had written them, with its log-probabilities. forms: rows of the batch, and words."""
    if not forms:
        return []
    texts = [" ".join(words[:-1]).replace(" '", "'") for _, words in forms]
    tokens = model.encode_captions(texts, 2 * settings.entry_length)
    # A row alone is summed in another order than the same row among others.
    times = 2 if len(forms) == 1 else 1
    rows = torch.tensor([row for row, _ in forms] * times, device=features.device)
    state = model.start(features[rows], mask[rows], max(map(len, tokens)))
    logprobs = forced_logprobs(state, tokens * times)[: len(forms)].tolist()
    return [
        Hypothesis(
            tokens=one[:-1],
            logprob=logprob,
            length=len(one),
            ended=True,
            score=logprob / len(one) ** settings.length_penalty,
            cut=False,
            stop_token=one[-1],
        )
        for one, logprob in zip(tokens, logprobs, strict=True)
    ]
