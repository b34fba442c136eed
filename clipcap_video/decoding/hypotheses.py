"""The hypotheses of a search, their scores, and the tokens that continue them: the best ones or drawn ones.

Penalties are for what a hypothesis already says: they change its ranking, never its `logprob`. Continuations are
functions of logits, without state, and depend on a video's own rows only, ties included, so that a video's captions
do not depend on the others in its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    """logsumexp over the vocabulary: [B, K, V] -> float32 [B, K]."""
    rows = logits.flatten(0, -2)
    return torch.cat([part.float().logsumexp(-1) for part in rows.split(ROWS_AT_ONCE)]).view(logits.shape[:-1])


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
    # In float32, for which torch has the quicker loop.
    maxima = torch.cat([part.float().amax(-1) for part in whole.flatten(0, -3).split(ROWS_AT_ONCE)])
    chosen = maxima.view(whole.shape[:-1]).topk(count).indices  # [..., count]
    places = torch.arange(STRETCH, device=logits.device)
    tokens = (chosen[..., None] * STRETCH + places).flatten(-2)
    rest = torch.arange(stretches * STRETCH, vocabulary, device=logits.device)
    tokens = torch.cat([tokens, rest.expand(*tokens.shape[:-1], -1)], -1)
    return tokens.gather(-1, logits.gather(-1, tokens).topk(count).indices)


@dataclass(frozen=True)
class NextToken:
    """What may follow each of K hypotheses of B videos, before and after the penalties.

    There is no log-softmax over the vocabulary: a search looks at few tokens of a row, for which the
    normaliser will do. Nor is there a copy of bf16 logits in float32, unless something is to be changed in them.
    """

    model_logits: Tensor  # [B, K, V] float32 or bf16
    model_normaliser: Tensor  # [B, K] float32: logsumexp of the logits
    logits: Tensor  # the same two after the penalties
    normaliser: Tensor

    @classmethod
    def of(cls, logits: Tensor, history: Tensor, settings: DecodingSettings) -> NextToken:
        """logits: [B, K, V]; history: [B, K, T] int64, the tokens so far."""
        if settings.mode == "sample" or settings.repetition_penalty != 1.0 or settings.no_repeat_ngram:
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
        return self.logits.gather(-1, tokens).float() - self.normaliser.unsqueeze(-1)

    def model_logprobs_of(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities under the model itself of `tokens` after hypotheses `parents`: all [B, K']."""
        vocabulary = self.model_logits.shape[-1]
        logits = self.model_logits.flatten(1).gather(1, parents * vocabulary + tokens)
        return logits.float() - self.model_normaliser.gather(1, parents)


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

    probability: float | None = None
    """The probability that it holds no wrong word, by the same network."""

    unsure: bool | None = None
    """Whether that is too little to be relied on."""

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


# Of GPT-2's 50,257 tokens the likeliest 1,024 nearly always hold the mass that top_p asks for.
NUCLEUS_GUESS = 1024


def best_continuations(
    lanes: Hypotheses, following: NextToken, beam_size: int, length_penalty: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The `beam_size` best among all continuations of live hypotheses and the stopped hypotheses themselves.

    lanes: K hypotheses of B videos; following: the logits [B, K, V] of their next tokens.
    Returns parents, tokens and scores, each [B, beam_size], best first; equal scores in the order of lane,
    then token id. A stopped hypothesis continues itself as token 0 with its score unchanged. Places for
    which there is no continuation have score -inf, and continue lane 0 as token 0.
    """
    vocabulary = following.logits.shape[-1]
    # torch.topk may return any of several equal values. One candidate more than needed shows if that matters.
    tokens = likeliest(following.logits, min(beam_size + 1, vocabulary))  # [B, K, C]
    scores = _proposal_scores(lanes, following.logprobs(tokens), length_penalty)
    tokens[..., 0].masked_fill_(lanes.stopped, 0)

    lane = torch.arange(tokens.shape[1], device=tokens.device)[:, None]
    places = (lane * vocabulary + tokens).flatten(1)  # [B, K * C], into the flattened K * V proposals
    missing = max(0, beam_size - places.shape[1])
    places, best_scores = _sorted_best(
        pad(places, (0, missing)), pad(scores.flatten(1), (0, missing), value=float("-inf")), beam_size
    )

    # Rounding keeps order, so every proposal as good as the last place is among the candidates, unless a
    # lane's own last candidate is that good: then tokens left out may tie with it, and their ids decide.
    if tokens.shape[-1] < vocabulary:
        last = best_scores[:, -1:]
        undecided = ((scores[..., -1] == last) & last.isfinite()).any(-1).nonzero().flatten()
        if len(undecided):
            logprobs = following.logits[undecided].float() - following.normaliser[undecided].unsqueeze(-1)
            all_scores = _proposal_scores(lanes.keep(undecided), logprobs, length_penalty).flatten(1)
            places[undecided], best_scores[undecided] = _best_of_all(all_scores, last[undecided], beam_size)
    places = places.masked_fill(best_scores.isneginf(), 0)
    return places // vocabulary, places % vocabulary, best_scores


def _proposal_scores(lanes: Hypotheses, logprobs: Tensor, length_penalty: float) -> Tensor:
    """Scores [B, K, C] of hypotheses continued by tokens of `logprobs` [B, K, C].

    A stopped hypothesis has its own score in the first place and -inf in the others.
    """
    scores = normalised_score(lanes.sums.unsqueeze(-1) + logprobs, (lanes.lengths + 1).unsqueeze(-1), length_penalty)
    scores.masked_fill_(lanes.stopped.unsqueeze(-1), float("-inf"))
    unchanged = normalised_score(lanes.sums, lanes.lengths, length_penalty)
    scores[..., 0] = unchanged.where(lanes.stopped, scores[..., 0])
    return scores


def _sorted_best(places: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of each row by score, equal scores by place: places and scores [B, count]."""
    places, by_place = places.sort(dim=-1, stable=True)
    scores, by_score = scores.gather(-1, by_place).sort(dim=-1, descending=True, stable=True)
    return places.gather(-1, by_score)[:, :count], scores[:, :count]


def _best_of_all(scores: Tensor, last: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As _sorted_best, of rows [B, K * V] too long to sort; `last` [B, 1] is the score of the last place."""
    proposals = scores.shape[1]
    # Keys without ties, save among those that are chosen anyway: better ones first, then equal ones by place.
    keys = torch.arange(proposals - 1, -1, -1, device=scores.device).expand_as(scores)
    keys = keys.masked_fill(scores > last, proposals).masked_fill(scores < last, -1)
    places = keys.topk(count).indices
    return _sorted_best(places, scores.gather(-1, places), count)


def draw_continuations(logits: Tensor, uniform: Tensor, settings: DecodingSettings) -> Tensor:
    """Tokens drawn at random: temperature, then top-k, then top-p (Holtzman et al. 2020), and inverse CDF.

    logits: [B, K, V]; uniform: [B, K, D] in [0, 1), one number a draw. Returns tokens [B, K, D] int64.
    Tokens that are as likely as the last one kept by top-k or top-p are kept too, so that no arbitrary
    order decides.
    """
    if settings.temperature != 1.0:
        logits = logits / settings.temperature
    vocabulary = logits.shape[-1]
    if settings.top_k is not None and settings.top_k < vocabulary:
        logits = _drop_below(logits, logits.topk(settings.top_k).values[..., -1:])
    if settings.top_p is not None and settings.top_p < 1:
        logits = _drop_below(logits, _nucleus_edge(logits, settings.top_p))
    cumulative = logits.softmax(-1).cumsum_(-1)
    tokens = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True).clamp(max=vocabulary - 1)
    # The running sum is rounded, so that once in millions of draws it may point at a token that was dropped.
    possible = logits.gather(-1, tokens) > float("-inf")
    return tokens.where(possible, logits.argmax(-1, keepdim=True))


def _drop_below(logits: Tensor, edge: Tensor) -> Tensor:
    return logits.masked_fill(logits < edge, float("-inf"))


def _nucleus_edge(logits: Tensor, top_p: float) -> Tensor:
    """The logit [B, K, 1] of the least likely token that the nucleus needs to hold the mass `top_p`."""
    vocabulary = logits.shape[-1]
    normaliser = logits.logsumexp(-1, keepdim=True)
    guess = NUCLEUS_GUESS
    while True:
        likeliest = logits.topk(min(guess, vocabulary)).values
        mass = (likeliest - normaliser).exp().cumsum(-1)
        if guess >= vocabulary or bool((mass[..., -1] >= top_p).all()):
            break
        guess *= 8
    needed = (mass < top_p).sum(-1, keepdim=True).clamp(max=likeliest.shape[-1] - 1)
    return likeliest.gather(-1, needed)


def uniform_noise(video_keys: Sequence[str], settings: DecodingSettings) -> Tensor:
    """Uniform numbers in [0, 1) for sampling: [B, lanes, entry_length].

    Row b is a function of the seed and key b alone. Drawn on the CPU, for other devices draw other numbers.
    """
    rows = []
    for key in video_keys:
        digest = hashlib.sha256(f"{settings.seed}\0{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.rand(settings.lanes, settings.entry_length, generator=generator))
    return torch.stack(rows)
