"""What a decoder hands back, and the hypotheses of a search as tensors: those it follows, and its completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from clipcap_video.decoding.scores import NextToken, penalised_length


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


@dataclass
class Hypotheses:
    """K hypotheses of each of B videos. Dead ones, never returned, have score -inf and count as stopped."""

    tokens: Tensor  # [B, K, L] int64, valid up to `lengths`; a stop token comes last
    lengths: Tensor  # [B, K] int64
    sums: Tensor  # [B, K] float32: log-probabilities after penalties, which rank
    logprobs: Tensor  # [B, K] float32: log-probabilities under the model itself
    scores: Tensor  # [B, K] float32: sums / lengths ** length_penalty
    stopped: Tensor  # [B, K] bool: it has taken a stop token, and changes no more

    @classmethod
    def empty(cls, batch: int, longest: int, device: torch.device) -> Hypotheses:
        """One hypothesis a video, of no tokens yet, with room for `longest`."""
        tokens = torch.zeros(batch, 1, longest, dtype=torch.int64, device=device)
        zeros = torch.zeros(batch, 1, device=device)
        return cls(tokens, zeros.long(), zeros, zeros, zeros, zeros.bool())

    @classmethod
    def dead(cls, batch: int, lanes: int, longest: int, device: torch.device) -> Hypotheses:
        """Places for `lanes` hypotheses a video, none of them taken."""
        everyone = torch.zeros(batch, lanes, dtype=torch.int64, device=device)
        places = cls.empty(batch, longest, device).pick(everyone)
        places.scores.fill_(float("-inf"))
        places.stopped.fill_(True)
        return places

    def continued(
        self,
        parents: Tensor,
        tokens: Tensor,
        scores: Tensor,
        following: NextToken,
        stop_tokens: Tensor,
        length_penalty: float,
        position: int,
    ) -> Hypotheses:
        """The hypotheses that continue lanes `parents` by `tokens` and then score `scores`, each [B, K'].

        `position` is the number of tokens that live hypotheses have so far.
        """
        heads = self.pick(parents)
        history = heads.tokens
        history[..., position] = tokens  # of a stopped one, this is past the end, where nobody looks
        lengths = heads.lengths + ~heads.stopped
        # Multiplied back as the ClipCap program does it, so that ours rounds alike and ties fall alike.
        sums = scores * penalised_length(lengths, length_penalty)
        gained = following.model_logprobs_of(parents, tokens).masked_fill(heads.stopped, 0.0)
        stopped = heads.stopped | torch.isin(tokens, stop_tokens) | scores.isneginf()
        return Hypotheses(history, lengths, sums, heads.logprobs + gained, scores, stopped)

    def best_with(self, others: Hypotheses, *, each_lane: bool) -> Hypotheses:
        """The K best of these and the `others`, or with `each_lane` the better of the two in each lane."""
        batch, lanes = self.scores.shape
        rows = batch * lanes if each_lane else batch
        mine, theirs = (side._map(lambda x: x.reshape(rows, -1, *x.shape[2:])) for side in (self, others))
        pairs = zip(mine._tensors(), theirs._tensors(), strict=True)
        both = Hypotheses(*(torch.cat(pair, 1) for pair in pairs))
        order = both.scores.sort(dim=1, descending=True, stable=True).indices[:, : batch * lanes // rows]
        return both.pick(order)._map(lambda x: x.reshape(batch, lanes, *x.shape[2:]))

    def replaced(self, where: Tensor, others: Hypotheses) -> Hypotheses:
        """The `others` in the lanes `where` [B, K], these elsewhere."""
        tokens = others.tokens.where(where[..., None], self.tokens)
        rest = zip(self._tensors()[1:], others._tensors()[1:], strict=True)
        return Hypotheses(tokens, *(theirs.where(where, mine) for mine, theirs in rest))

    def keep(self, rows: Tensor) -> Hypotheses:
        """The videos `rows` [B'] alone."""
        return self._map(lambda x: x[rows])

    def pick(self, lanes: Tensor) -> Hypotheses:
        """Copies of the hypotheses `lanes` [B, K'] of each video."""
        video = torch.arange(len(lanes), device=lanes.device)[:, None]
        return self._map(lambda x: x[video, lanes])

    def to_lists(self, cut: Tensor) -> list[list[Hypothesis]]:
        """As Python objects, one list a video, without the dead ones. cut: [B, K] bool."""
        columns = (self.tokens, self.lengths, self.logprobs, self.scores, self.stopped, cut)
        return [
            [_hypothesis(*lane) for lane in zip(*video, strict=True) if lane[3] > float("-inf")]
            for video in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Hypotheses:
        return Hypotheses(*map(change, self._tensors()))


def _hypothesis(tokens: list[int], length: int, logprob: float, score: float, ended: bool, cut: bool) -> Hypothesis:
    words = length - ended
    return Hypothesis(tokens[:words], logprob, length, ended, score, cut, tokens[words] if ended else None)
