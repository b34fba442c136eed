"""What a decoder hands back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """One caption, as tokens."""

    tokens: list[int]
    """The caption's tokens; the stop token is not among them."""

    logprob: float
    """Sum of the tokens' log-probabilities (nats) under the model itself, before penalties, temperature or
    truncation; the stop token's is included when `ended`."""

    length: int
    """The tokens that `logprob` sums over: `len(tokens)`, and one more when `ended`."""

    ended: bool
    """Whether a stop token follows `tokens`; False for a text that breaks off."""

    score: float
    """What it was ranked by: sum of log-probabilities after penalties / length ** length_penalty."""

    cut: bool
    """Whether the search, and not the model, closed it: it reached `entry_length` (or left the beam) first.
    `tokens` are then the best completion on the way when `ended`, else the unfinished text."""

    stop_token: int | None = None
    """The stop token that follows `tokens`; None unless `ended`."""

    expected_cider: float | None = None
    """The CIDEr (0 to 10) that the checkpoint's consensus network expects of it; None where there is none."""

    support: float | None = None
    """The share (0 to 1) of its words that somebody would say, by the same network; None where there is none."""

    @property
    def mean_logprob(self) -> float:
        """Nats a token, the stop token counted: comparable between captions of different lengths."""
        return self.logprob / self.length
