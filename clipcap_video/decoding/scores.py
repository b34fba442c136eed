"""Arithmetic that all decoders share: log-probabilities of the next token, the score of a hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clipcap_video.decoding.processors import forbid_repeated_ngrams, penalise_repetition
from clipcap_video.decoding.settings import DecodingSettings


def penalised_length(lengths: Tensor, length_penalty: float) -> Tensor:
    """length ** length_penalty in float32, of lengths of any shape."""
    # Computed in float64: in float32 the last bit depends on how many powers are computed at once.
    return (lengths.double() ** length_penalty).float()


def normalised_score(sums: Tensor, lengths: Tensor, length_penalty: float) -> Tensor:
    """What hypotheses are ranked by: sum of log-probabilities (nats) / length ** length_penalty.

    NaN, which comes of a model whose logits are NaN or all -inf, becomes -inf: such a hypothesis is dead.
    """
    return (sums / penalised_length(lengths, length_penalty)).nan_to_num(float("-inf"), neginf=float("-inf"))


@dataclass(frozen=True)
class NextToken:
    """What may follow each of K hypotheses of B videos, before and after the penalties.

    There is no log-softmax over the vocabulary: a search looks at few tokens of a row, for which the
    normaliser will do.
    """

    model_logits: Tensor  # [B, K, V] float32
    model_normaliser: Tensor  # [B, K] float32: logsumexp of the logits
    logits: Tensor  # the same two after the penalties
    normaliser: Tensor

    @classmethod
    def of(cls, logits: Tensor, history: Tensor, settings: DecodingSettings) -> NextToken:
        """logits: [B, K, V]; history: [B, K, T] int64, the tokens so far."""
        logits = logits.float()
        normaliser = logits.logsumexp(-1)
        penalised, penalised_normaliser = logits, normaliser
        if settings.repetition_penalty != 1.0:
            penalised = penalise_repetition(penalised, history, settings.repetition_penalty)
        if settings.no_repeat_ngram:
            penalised = forbid_repeated_ngrams(penalised, history, settings.no_repeat_ngram)
        if penalised is not logits:
            penalised_normaliser = penalised.logsumexp(-1)
        return cls(logits, normaliser, penalised, penalised_normaliser)

    def logprobs(self, tokens: Tensor) -> Tensor:
        """Log-probabilities [B, K, C] after penalties, of C tokens [B, K, C] for each hypothesis."""
        return self.logits.gather(-1, tokens) - self.normaliser.unsqueeze(-1)

    def model_logprobs_of(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities under the model itself of `tokens` after hypotheses `parents`: all [B, K']."""
        vocabulary = self.model_logits.shape[-1]
        logits = self.model_logits.flatten(1).gather(1, parents * vocabulary + tokens)
        return logits - self.model_normaliser.gather(1, parents)
