"""Scores that all decoders share: log-probabilities of the next token, penalties, what hypotheses are ranked by.

Penalties are for what a hypothesis already says: they change its ranking, never its `logprob`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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


# Logits of a whole batch do not fit the caches of a CPU, those of a few hypotheses do.
ROWS_AT_ONCE = 8
# The vocabulary is searched in stretches of so many tokens.
STRETCH = 128


def normaliser_of(logits: Tensor) -> Tensor:
    """logsumexp over the vocabulary: [B, K, V] -> [B, K]."""
    rows = logits.flatten(0, -2)
    return torch.cat([part.logsumexp(-1) for part in rows.split(ROWS_AT_ONCE)]).view(logits.shape[:-1])


def likeliest(logits: Tensor, count: int) -> Tensor:
    """The tokens of the `count` greatest of the logits [..., V], greatest first: [..., count].

    Of equal values any may be taken, as in torch.topk, which takes four times as long: the greatest are found in
    those stretches of the vocabulary that have the greatest maxima.
    """
    vocabulary = logits.shape[-1]
    stretches = vocabulary // STRETCH
    if stretches < 4 * count:
        return logits.topk(min(count, vocabulary)).indices
    whole = logits[..., : stretches * STRETCH].unflatten(-1, (stretches, STRETCH))
    chosen = whole.amax(-1).topk(count).indices  # [..., count]
    places = torch.arange(STRETCH, device=logits.device)
    tokens = (chosen[..., None] * STRETCH + places).flatten(-2)
    rest = torch.arange(stretches * STRETCH, vocabulary, device=logits.device)
    tokens = torch.cat([tokens, rest.expand(*tokens.shape[:-1], -1)], -1)
    return tokens.gather(-1, logits.gather(-1, tokens).topk(count).indices)


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
        normaliser = normaliser_of(logits)
        penalised, penalised_normaliser = logits, normaliser
        if settings.repetition_penalty != 1.0:
            penalised = penalise_repetition(penalised, history, settings.repetition_penalty)
        if settings.no_repeat_ngram:
            penalised = forbid_repeated_ngrams(penalised, history, settings.no_repeat_ngram)
        if penalised is not logits:
            penalised_normaliser = normaliser_of(penalised)
        return cls(logits, normaliser, penalised, penalised_normaliser)

    def logprobs(self, tokens: Tensor) -> Tensor:
        """Log-probabilities [B, K, C] after penalties, of C tokens [B, K, C] for each hypothesis."""
        return self.logits.gather(-1, tokens) - self.normaliser.unsqueeze(-1)

    def model_logprobs_of(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities under the model itself of `tokens` after hypotheses `parents`: all [B, K']."""
        vocabulary = self.model_logits.shape[-1]
        logits = self.model_logits.flatten(1).gather(1, parents * vocabulary + tokens)
        return logits - self.model_normaliser.gather(1, parents)


def penalise_repetition(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Makes the tokens that a hypothesis already has less likely (Keskar et al. 2019, CTRL, section 4.1).

    logits: [B, K, V]; history: [B, K, T] int64, the tokens so far. Returns new logits [B, K, V]: of a token
    in the history, a positive logit is divided by `penalty` and a negative one multiplied by it.
    """
    seen = logits.gather(-1, history)
    return logits.scatter(-1, history, (seen / penalty).where(seen > 0, seen * penalty))


def forbid_repeated_ngrams(logits: Tensor, history: Tensor, n: int) -> Tensor:
    """Forbids every token that would complete an n-gram which the hypothesis already has.

    logits: [B, K, V]; history: [B, K, T] int64, the tokens so far. Returns new logits [B, K, V], -inf where
    forbidden.
    """
    if history.shape[-1] < n:
        return logits
    ngrams = history.unfold(-1, n, 1)  # [B, K, T - n + 1, n]
    unfinished = history[..., history.shape[-1] - n + 1 :]  # [B, K, n - 1], which the next token completes
    repeats = (ngrams[..., :-1] == unfinished.unsqueeze(-2)).all(-1)
    # A token may close several n-grams of which one matches, so writes must combine: 0 and -inf do, added up.
    penalty = logits.new_zeros(repeats.shape).masked_fill(repeats, float("-inf"))
    return logits.scatter_add(-1, ngrams[..., -1], penalty)
