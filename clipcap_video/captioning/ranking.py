"""Hypotheses in another order than the language model's: that of the checkpoint's consensus network, with what it
expects of each; of how well they fit the video by a model that reads both; or of the two together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from clipcap_video.consensus.caution import Words, cautious_forms
from clipcap_video.consensus.network import Calibration, ConsensusRanker, Judgement
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.cider import caption_words
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import CONSENSUS, CheckpointInfo

if TYPE_CHECKING:
    from clipcap_video.captioning.text_side import TextSide

# What a nat of fit is worth in expected CIDEr (0 to 10), and in log-probability over length. Of the validation split.
FIT_IN_CIDER = 0.03
FIT_IN_LOGPROB = 0.2
# The most captions of a video, by the network, whose fit is looked at.
FITTED = 40

# The words of a caption, and the hypothesis that has them; None for a form of another.
_Entry = tuple[Words, Hypothesis | None]
_Judged = tuple[Words, Hypothesis | None, Judgement]


def load_ranker(source: Path, feature_dim: int, device: torch.device) -> ConsensusRanker | None:
    """The network in the checkpoint `source`, None where it has none. Raises ClipcapError when it does not fit."""
    file = source / CONSENSUS
    if not file.exists():
        return None
    ranker = ConsensusRanker.load(file)
    if ranker.config.feature_dim != feature_dim:
        raise ClipcapError(
            f"{file} reads features {ranker.config.feature_dim} wide and the captioner beside it "
            f"{feature_dim}; make it anew with clipcap-video train-consensus --model_dir {source}"
        )
    return ranker.to(device)


class Reranking:
    """What a captioner needs to put its hypotheses in another order than the language model's."""

    model: CaptionModel
    info: CheckpointInfo
    device: torch.device
    ranker: ConsensusRanker | None
    _side: tuple[str | None, TextSide] | None = None

    @property
    @abstractmethod
    def encoder(self) -> ImageEncoder:
        """The frozen encoder of the features."""

    def ranks(self, settings: DecodingSettings) -> bool:
        """Whether captions so decoded are ranked by the checkpoint's consensus network."""
        return self.ranker is not None and settings.rerank in ("consensus", "both")

    def reorders(self, settings: DecodingSettings) -> bool:
        """Whether captions so decoded come in another order than the language model's."""
        return self.ranks(settings) or settings.reads_texts

    def text_side(self, settings: DecodingSettings) -> TextSide | None:
        """What tells how well captions fit, kept for the next call; None where `settings` ask for no such thing.

        Raises ClipcapError where nothing reads captions for these features.
        """
        if not settings.reads_texts:
            return None
        if settings.rerank == "both" and self.ranker is None:
            raise ClipcapError(
                "--rerank both needs a consensus network, and this captioner has none; make one with clipcap-video "
                "train-consensus, or take --rerank clip"
            )
        if self._side is None or self._side[0] != settings.rerank_model:
            from clipcap_video.captioning.text_side import load_text_side  # CLIP, a second of imports

            side = load_text_side(
                settings.rerank_model, self.info.fingerprint, self.model.feature_dim, self.device, lambda: self.encoder
            )
            self._side = settings.rerank_model, side
        return self._side[1]

    def ordered(
        self, hypotheses: list[list[Hypothesis]], features: torch.Tensor, mask: torch.Tensor, settings: DecodingSettings
    ) -> list[list[Hypothesis]]:
        """The `num_return` hypotheses of each video in the order that `settings` ask for.

        features: [B, T, D]; mask: [B, T] bool.
        """
        side = self.text_side(settings)
        if self.ranker is not None and self.ranks(settings):
            return rank(self.ranker, self.model, features, mask, hypotheses, settings, side)
        if side is not None:
            return rank_by_fit(side, self.model, features, mask, hypotheses, settings.num_return)
        return hypotheses


def rank(
    ranker: ConsensusRanker,
    model: CaptionModel,
    features: torch.Tensor,
    mask: torch.Tensor,
    candidates: list[list[Hypothesis]],
    settings: DecodingSettings,
    text_side: TextSide | None = None,
) -> list[list[Hypothesis]]:
    """The `num_return` hypotheses of each video of which most is expected; whole captions come before broken ones.

    features: [B, T, D]; mask: [B, T] bool. Captions that the model remembers compete with them. With caution, shorter
    and more general forms of the hypotheses do, too.
    With a text side, the first FITTED are put in the order of what is expected and how well they fit.
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
    for row, remembered in zip(entries, model.remembered(features, mask), strict=True):
        given = {words for words, _ in row}
        row += [(words, None) for words in (tuple(caption_words(text)) for text in remembered) if words not in given]
    judgements = ranker.judge(features, mask, [[words for words, _ in row] for row in entries])
    most = settings.num_return if text_side is None else max(FITTED, settings.num_return)
    chosen = [_best(row, judged, caution, most) for row, judged in zip(entries, judgements, strict=True)]
    if text_side is not None:
        texts = [[_text(model, words, one) for words, one, _ in row] for row in chosen]
        fits = text_side.fit(features, mask, texts)
        chosen = [_fittest(row, fit, caution, settings.num_return) for row, fit in zip(chosen, fits, strict=True)]
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


def rank_by_fit(
    text_side: TextSide,
    model: CaptionModel,
    features: torch.Tensor,
    mask: torch.Tensor,
    candidates: list[list[Hypothesis]],
    count: int,
) -> list[list[Hypothesis]]:
    """The `count` hypotheses of each video whose score and fit, both in nats, add up to most; whole ones come first."""
    texts = [[model.decode_tokens(one.tokens, one.stop_token) for one in row] for row in candidates]
    ranked = []
    for row, fits in zip(candidates, text_side.fit(features, mask, texts), strict=True):
        worth = {id(one): (one.ended, one.score + FIT_IN_LOGPROB * fit) for one, fit in zip(row, fits, strict=True)}
        ranked.append(sorted(row, key=lambda one: worth[id(one)], reverse=True)[:count])
    return ranked


def _best(entries: Sequence[_Entry], judgements: Sequence[Judgement], caution: float, count: int) -> list[_Judged]:
    judged = [(words, one, judgement) for (words, one), judgement in zip(entries, judgements, strict=True)]
    judged.sort(key=lambda entry: (_is_whole(entry), entry[2].merit(caution)), reverse=True)
    return judged[:count]


def _fittest(judged: Sequence[_Judged], fits: Sequence[float], caution: float, count: int) -> list[_Judged]:
    pairs = sorted(
        zip(judged, fits, strict=True),
        key=lambda pair: (_is_whole(pair[0]), pair[0][2].merit(caution) + FIT_IN_CIDER * pair[1]),
        reverse=True,
    )
    return [entry for entry, _ in pairs[:count]]


def _is_whole(entry: _Judged) -> bool:
    return entry[1] is None or entry[1].ended


def _text(model: CaptionModel, words: Words, one: Hypothesis | None) -> str:
    """The caption of an entry as it would be written."""
    return _joined(words) if one is None else model.decode_tokens(one.tokens, one.stop_token)


def _joined(form: Words) -> str:
    return " ".join(form[:-1]).replace(" '", "'").replace(" n't", "n't")


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
    texts = [_joined(words) for _, words in forms]
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
