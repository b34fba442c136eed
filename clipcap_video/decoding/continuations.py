"""Which tokens continue the hypotheses: the best ones (beam search, greedy) or drawn ones (sampling).

Both are functions of logits, without state. Both depend on a video's own rows only, ties included, so that
a video's captions do not depend on the others in its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from clipcap_video.decoding.hypotheses import Hypotheses
from clipcap_video.decoding.scores import NextToken, likeliest, normalised_score
from clipcap_video.decoding.settings import DecodingSettings

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
            logprobs = following.logits[undecided] - following.normaliser[undecided].unsqueeze(-1)
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
