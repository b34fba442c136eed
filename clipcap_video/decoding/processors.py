"""Penalties on logits for what a hypothesis already says: they change its ranking, never its `logprob`."""

from __future__ import annotations

from torch import Tensor


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
