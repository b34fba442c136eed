"""Fake captioners for the decoding tests, and slow, literal renderings of the rules to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.decoding.search import decode

History = tuple[int, ...]
LogitsOf = Callable[[str, History], Tensor]


class HistoryModel:
    """A StepModel whose logits are any function of the video and of the whole history of a lane.

    It rebuilds the histories from `tokens` and `parents`, so wrong parents or rows give wrong logits at once.
    """

    def __init__(self, videos: Sequence[str], logits_of: LogitsOf, stops: Sequence[int] = ()) -> None:
        self.stops = set(stops)
        self.videos = list(videos)
        self.logits_of = logits_of
        self.histories: list[list[History]] = [[()] for _ in self.videos]
        self.steps = 0
        self.lane_steps = 0
        self.lanes: int | None = None

    def begin(self) -> Tensor:
        assert self.steps == 0
        return torch.stack([self.logits_of(video, ()) for video in self.videos])

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        assert tokens.dtype == parents.dtype == torch.int64
        assert tokens.shape == parents.shape == (len(self.videos), self.lanes or tokens.shape[1])
        assert len(self.videos) > 0
        if self.steps == 0:
            assert not parents.any()
        self.lanes = tokens.shape[1]
        self.histories = [
            [histories[parent] + (token,) for token, parent in zip(row_tokens, row_parents, strict=True)]
            for histories, row_tokens, row_parents in zip(
                self.histories, tokens.tolist(), parents.tolist(), strict=True
            )
        ]
        for histories in self.histories:
            for history in histories:  # a lane that has ended goes on with token 0
                assert history[-1] == 0 or not self.stops.intersection(history[:-1])
        self.steps += 1
        self.lane_steps += tokens.numel()
        return torch.stack(
            [
                torch.stack([self.logits_of(video, history) for history in histories])
                for video, histories in zip(self.videos, self.histories, strict=True)
            ]
        )

    def keep(self, rows: Tensor) -> None:
        assert rows.dtype == torch.int64
        kept = rows.tolist()
        assert kept == sorted(set(kept))
        assert 0 < len(kept) < len(self.videos)
        self.videos = [self.videos[row] for row in kept]
        self.histories = [self.histories[row] for row in kept]


def random_logits(seed: int, vocabulary: int, *, levels: int | None = None, spread: float = 2.0) -> LogitsOf:
    """Random logits for every (video, history); with `levels`, integers below it, so that ties abound."""
    memory: dict[tuple[str, History], Tensor] = {}

    def logits_of(video: str, history: History) -> Tensor:
        key = (video, history)
        if key not in memory:
            # Hashes of text are salted by Python; those of numbers are not.
            place = hash((seed, *(ord(letter) for letter in video), -7, *history))
            generator = torch.Generator().manual_seed(place % 2**62)
            if levels is None:
                memory[key] = torch.randn(vocabulary, generator=generator) * spread
            else:
                memory[key] = torch.randint(levels, (vocabulary,), generator=generator).float()
        return memory[key]

    return logits_of


def log_softmax(logits: Tensor) -> Tensor:
    return logits - logits.logsumexp(-1, keepdim=True)


def recomputed_logprob(logits_of: LogitsOf, video: str, hypothesis: Hypothesis) -> float:
    """The sum of log-probabilities of a hypothesis, from the model, in float64."""
    tokens = hypothesis.tokens + ([] if hypothesis.stop_token is None else [hypothesis.stop_token])
    return sum(
        float(logits_of(video, tuple(tokens[:place])).double().log_softmax(-1)[token])
        for place, token in enumerate(tokens)
    )


def first_largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`topk` that gives equal values in the order of their indices."""
    order = values.sort(descending=True, stable=True).indices[:count]
    return values[order], order


def clipcap_beam(
    logits_of: Callable[[History], Tensor], beam_size: int, entry_length: int, stop_token: int
) -> list[tuple[list[int], float]]:
    """The ClipCap program's beam search, uncached: (tokens up to the length, mean) of each, best first."""
    tokens = torch.zeros(1, 0, dtype=torch.int64)
    scores = None
    seq_lengths = torch.ones(beam_size)
    is_stopped = torch.zeros(beam_size, dtype=torch.bool)
    for _ in range(entry_length):
        logits = log_softmax(torch.stack([logits_of(tuple(row)) for row in tokens.tolist()]))
        if scores is None:
            scores, next_tokens = first_largest(logits[0], beam_size)
            tokens = next_tokens[:, None]
        else:
            logits = logits.clone()
            logits[is_stopped] = -math.inf
            logits[is_stopped, 0] = 0
            scores_sum = scores[:, None] + logits
            seq_lengths[~is_stopped] += 1
            scores_sum_average = scores_sum / seq_lengths[:, None]
            scores_sum_average, places = first_largest(scores_sum_average.view(-1), beam_size)
            source = places // scores_sum.shape[1]
            seq_lengths = seq_lengths[source]
            next_tokens = places % scores_sum.shape[1]
            tokens = torch.cat((tokens[source], next_tokens[:, None]), 1)
            scores = scores_sum_average * seq_lengths
            is_stopped = is_stopped[source]
        is_stopped = is_stopped | next_tokens.eq(stop_token)
        if is_stopped.all():
            break
    assert scores is not None
    scores = scores / seq_lengths
    order = scores.sort(descending=True, stable=True).indices
    return [(tokens[i, : int(seq_lengths[i])].tolist(), float(scores[i])) for i in order]


def captions_of(
    logits_of: LogitsOf, videos: list[str], stop: int | list[int] = 1, **options: Any
) -> list[list[Hypothesis]]:
    stops = [stop] if isinstance(stop, int) else stop
    settings = DecodingSettings(**options)
    return decode(HistoryModel(videos, logits_of, stops), len(videos), stops, settings, video_keys=videos)
