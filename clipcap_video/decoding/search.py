"""One search behind beam search, greedy decoding and sampling.

**The rule.** Each video has K hypotheses (*lanes*). A hypothesis h has

    score(h) = sum of the log-probabilities of its tokens / length(h) ** length_penalty,

where a stop token that it has taken counts as a token in both. Log-probabilities are those after the repetition
penalties, if there are any.

1. The search begins with one empty hypothesis.
2. At each step every live hypothesis proposes all its continuations by one token, and every stopped hypothesis
   proposes itself, unchanged. The K proposals that score best are the new hypotheses; equal scores fall to the lower
   lane, then to the lower token id. A hypothesis stops when it takes a stop token. *Greedy decoding* is K = 1. In
   *sampling* each lane continues itself instead, by a token drawn at random: temperature, then top-k, then top-p.
3. A video is finished when all its hypotheses have stopped, or when they have `entry_length` tokens.
4. The best score comes first.

With `length_penalty=1` and `complete=False` this is the beam search of the ClipCap program, rounding and ties
included. It returns text that breaks off when no beam has stopped in time (here: `cut`, not `ended`).

With `complete=True` captions are whole:

5. At each step after the first token, every live hypothesis could end at once, by its likeliest stop token. The best
   such *completions* (by the same score) are remembered: `num_return` a video, or in sampling one a lane.
6. After `entry_length` tokens the model is asked once more. A live hypothesis whose likeliest next token is a stop
   token takes it, and has ended like any other; the others only offer their completions, as in 5.
7. Hypotheses that ended come first, by score. If they are fewer than `num_return`, remembered completions that are not
   among them follow, by score, flagged `cut` (they are `ended`, but the search closed them). In sampling, a lane that
   did not end gives its own completion. Only where no completion has a probability above zero is unfinished text
   returned.

There may be fewer than `num_return` hypotheses where the model leaves fewer possible. A video's answer depends on its
own logits and, in sampling, on its key and the seed; never on the other videos in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

from clipcap_video.decoding.hypotheses import (
    Hypotheses,
    Hypothesis,
    NextToken,
    best_continuations,
    draw_continuations,
    normalised_score,
    uniform_noise,
)
from clipcap_video.decoding.protocol import StepModel, checked_stop_tokens
from clipcap_video.decoding.settings import DecodingSettings
from clipcap_video.errors import ClipcapError
from clipcap_video.stopping import break_off_if_stopped

# Videos that are finished are dropped when so few of the rest are left, or fewer: each time copies all that is cached.
STILL_GOING = 0.75


@torch.no_grad()
def decode(
    model: StepModel,
    batch_size: int,
    stop_tokens: Sequence[int],
    settings: DecodingSettings,
    *,
    video_keys: Sequence[str] | None = None,
) -> list[list[Hypothesis]]:
    """Captions `batch_size` videos by the rule above: for each its best `num_return` hypotheses, best first.

    model: the state of these videos, not begun yet. stop_tokens: ids that end a caption. video_keys: what
    seeds the sampling of each video, so that its samples do not depend on its batch; by default its place
    in the batch. Raises ClipcapError when a stop token is not in the vocabulary, or when a video's logits
    are NaN.
    """
    keys = [str(row) for row in range(batch_size)] if video_keys is None else video_keys
    if len(keys) != batch_size:
        raise ValueError(f"{batch_size} videos, but {len(keys)} video_keys")
    if batch_size == 0:
        return []
    logits = model.begin().unsqueeze(1)  # [B, 1, V], of the one empty hypothesis
    device = logits.device
    stops = checked_stop_tokens(stop_tokens, logits.shape[-1]).to(device)
    sampling = settings.mode == "sample"
    noise = uniform_noise(keys, settings).to(device) if sampling else None
    longest = settings.entry_length + 1  # the stop token
    lanes = Hypotheses.empty(batch_size, longest, device)
    completions = Hypotheses.dead(batch_size, settings.num_return, longest, device)
    videos = list(range(batch_size))  # which video each row of the tensors is
    answers: dict[int, list[Hypothesis]] = {}

    for position in range(settings.entry_length):
        break_off_if_stopped()
        following = NextToken.of(logits, lanes.tokens[..., :position], settings)
        if settings.complete and position > 0:
            endings = _endings(lanes, following, stops, settings, position)
            completions = completions.best_with(endings, each_lane=sampling)

        uniform = None if noise is None else noise[..., position]
        parents, tokens, scores = _continuations(lanes, following, uniform, settings)
        lanes = lanes.continued(parents, tokens, scores, following, stops, settings.length_penalty, position)

        going = ~lanes.stopped.all(1)
        if going.sum() <= STILL_GOING * len(going):
            finished, rows = (~going).nonzero().flatten(), going.nonzero().flatten()
            answered = _answers(lanes.keep(finished), completions.keep(finished), settings)
            answers |= zip([videos[row] for row in finished.tolist()], answered, strict=True)
            if len(rows) == 0:
                break
            model.keep(rows)
            videos = [videos[row] for row in rows.tolist()]
            lanes, completions = lanes.keep(rows), completions.keep(rows)
            parents, tokens = parents[rows], tokens[rows]
            noise = None if noise is None else noise[rows]
        if settings.complete or position + 1 < settings.entry_length:
            logits = model.step(tokens, parents)
    else:
        if settings.complete:
            following = NextToken.of(logits, lanes.tokens[..., : settings.entry_length], settings)
            endings = _endings(lanes, following, stops, settings, settings.entry_length)
            completions = completions.best_with(endings, each_lane=sampling)
            ends_here = torch.isin(following.logits.argmax(-1), stops) & ~lanes.stopped
            lanes = lanes.replaced(ends_here, endings)
        answers.update(zip(videos, _answers(lanes, completions, settings), strict=True))

    for video, answer in answers.items():
        if not answer:
            raise ClipcapError(
                f"the model gives no caption for video {keys[video]}, for its logits are NaN or all -inf; "
                "check its features and the checkpoint, or try --precision fp32"
            )
    return [answers[video] for video in range(batch_size)]


def _continuations(
    lanes: Hypotheses, following: NextToken, uniform: Tensor | None, settings: DecodingSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Step 2 of the rule: parents, tokens and scores of the new hypotheses, each [B, K].

    uniform: [B, K] random numbers in [0, 1) for sampling, else None. The first step makes K lanes of one.
    """
    if uniform is None:
        return best_continuations(lanes, following, settings.lanes, settings.length_penalty)
    batch, width = lanes.scores.shape
    draws = settings.lanes // width  # K at the first step, then 1
    tokens = draw_continuations(following.logits, uniform.reshape(batch, width, draws), settings)
    continued = lanes.sums.unsqueeze(-1) + following.logprobs(tokens)  # [B, width, draws]
    scores = normalised_score(continued, (lanes.lengths + 1).unsqueeze(-1), settings.length_penalty)
    stopped = lanes.stopped.unsqueeze(-1)
    scores = lanes.scores.unsqueeze(-1).where(stopped, scores)
    parents = torch.arange(width, device=tokens.device)[:, None].expand_as(tokens)
    return parents.flatten(1), tokens.masked_fill(stopped, 0).flatten(1), scores.flatten(1)


def _endings(
    lanes: Hypotheses, following: NextToken, stops: Tensor, settings: DecodingSettings, position: int
) -> Hypotheses:
    """Each live hypothesis ended now by its likeliest stop token; dead where there is no live one."""
    batch, width = lanes.scores.shape
    logprobs, likeliest = following.logprobs(stops.expand(batch, width, -1)).max(-1)
    scores = normalised_score(lanes.sums + logprobs, lanes.lengths + 1, settings.length_penalty)
    scores = scores.masked_fill(lanes.stopped, float("-inf"))
    parents = torch.arange(width, device=scores.device).expand(batch, -1)
    return lanes.continued(parents, stops[likeliest], scores, following, stops, settings.length_penalty, position)


def _answers(lanes: Hypotheses, completions: Hypotheses, settings: DecodingSettings) -> list[list[Hypothesis]]:
    """Steps 4 and 7 of the rule for each video."""
    if settings.mode == "sample":  # a lane that ended has no use for its completion
        completions.scores.masked_fill_(lanes.stopped, float("-inf"))
    followed = lanes.to_lists(cut=~lanes.stopped)
    remembered = completions.to_lists(cut=torch.ones_like(completions.stopped))

    answers = []
    for hypotheses, others in zip(followed, remembered, strict=True):
        hypotheses.sort(key=attrgetter("score"), reverse=True)
        if settings.complete:
            ended = [hypothesis for hypothesis in hypotheses if hypothesis.ended]
            if settings.mode != "sample":
                texts = {tuple(hypothesis.tokens) for hypothesis in ended}
                others = [other for other in others if tuple(other.tokens) not in texts]
            hypotheses = ended + sorted(others, key=attrgetter("score"), reverse=True) or hypotheses
        answers.append(hypotheses[: settings.num_return])
    return answers
