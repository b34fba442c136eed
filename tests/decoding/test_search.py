"""Beam search and greedy decoding: the ClipCap program's rule, brute force, one video at a time."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.decoding.search import STILL_GOING, decode
from clipcap_video.errors import ClipcapError
from tests.decoding_models import (
    HistoryModel,
    LogitsOf,
    captions_of,
    clipcap_beam,
    log_softmax,
    random_logits,
    recomputed_logprob,
)


def with_stop(hypothesis: Hypothesis) -> list[int]:
    return hypothesis.tokens + ([] if hypothesis.stop_token is None else [hypothesis.stop_token])


@property_settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(5, 12),
    beam_size=st.integers(1, 5),
    entry_length=st.integers(1, 7),
    levels=st.sampled_from([None, 1, 2, 3, 6]),
    stop=st.integers(0, 4),
)
def test_is_the_clipcap_rule_ties_included(
    seed: int, vocabulary: int, beam_size: int, entry_length: int, levels: int | None, stop: int
) -> None:
    logits_of = random_logits(seed, vocabulary, levels=levels)
    videos = ["a", "b", "c"]
    found = captions_of(
        logits_of,
        videos,
        stop,
        entry_length=entry_length,
        beam_size=beam_size,
        num_return=beam_size,
        complete=False,
    )
    for video, hypotheses in zip(videos, found, strict=True):
        expected = clipcap_beam(partial(logits_of, video), beam_size, entry_length, stop)
        assert [(with_stop(h), h.score) for h in hypotheses] == expected
        for h in hypotheses:
            assert h.length == len(with_stop(h)) <= entry_length
            assert h.ended == (h.stop_token == stop) == (not h.cut)
            assert h.logprob == pytest.approx(recomputed_logprob(logits_of, video, h), abs=1e-4)
            assert h.mean_logprob == pytest.approx(h.score, abs=1e-5)


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("margin", [3.0, 50.0])
@pytest.mark.parametrize("levels", [None, 2])
def test_is_the_clipcap_rule_where_beams_stop_together(step: int, margin: float, levels: int | None) -> None:
    """Every beam prefers to stop at one step, or (with the first) the best one does before the others have begun."""
    plain, stop = random_logits(step, 8, levels=levels), 3

    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        logits = plain(video, history).clone()
        logits[stop] += margin if len(history) == step else -margin
        return logits

    videos = [f"video{number}" for number in range(20)]
    options = {"entry_length": 6, "beam_size": 4, "num_return": 4, "complete": False}
    found = captions_of(logits_of, videos, stop, **options)
    for video, hypotheses in zip(videos, found, strict=True):
        assert [(with_stop(h), h.score) for h in hypotheses] == clipcap_beam(partial(logits_of, video), 4, 6, stop)
    stopped = [[h.length == step + 1 and h.ended for h in hypotheses] for hypotheses in found]
    if margin == 50.0:
        assert all(all(own) if step else own[0] and sum(own) == 1 for own in stopped)


def test_all_beams_stop_at_the_first_step() -> None:
    logits_of = random_logits(0, 6)
    model = HistoryModel(["a"], logits_of)
    (hypotheses,) = decode(model, 1, [0, 1, 2, 3, 4, 5], DecodingSettings(beam_size=3, num_return=3))
    assert model.steps == 0
    assert [h.tokens for h in hypotheses] == [[], [], []]
    best = logits_of("a", ()).topk(3).indices.tolist()
    assert [h.stop_token for h in hypotheses] == best


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_wider_than_the_search_space_finds_the_best_of_all(seed: int, length_penalty: float) -> None:
    vocabulary, entry_length, stop = 3, 4, 2
    logits_of = random_logits(seed, vocabulary)

    every: list[tuple[float, list[int]]] = []
    for length in range(1, entry_length + 1):
        for tokens in itertools.product(range(vocabulary), repeat=length):
            if stop in tokens[:-1] or (tokens[-1] != stop and length < entry_length):
                continue
            logprob = sum(float(log_softmax(logits_of("a", tokens[:i]))[token]) for i, token in enumerate(tokens))
            every.append((logprob / length**length_penalty, list(tokens)))
    every.sort(reverse=True)

    count = len(every)
    (found,) = captions_of(
        logits_of,
        ["a"],
        stop,
        beam_size=100,
        num_return=100,
        entry_length=entry_length,
        length_penalty=length_penalty,
        complete=False,
    )
    assert len(found) == count  # lanes without a hypothesis are not returned
    assert [with_stop(h) for h in found] == [tokens for _, tokens in every]
    assert [h.score for h in found] == pytest.approx([score for score, _ in every], abs=1e-5)


@pytest.mark.parametrize("use_beam_search", [True, False])
@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("levels", [None, 3])
def test_a_batch_is_as_one_at_a_time(use_beam_search: bool, complete: bool, levels: int | None) -> None:
    logits_of = random_logits(3, 7, levels=levels)
    videos = [f"video{i}" for i in range(40)]
    options: dict[str, Any] = {
        "use_beam_search": use_beam_search,
        "beam_size": 3,
        "num_return": 2 if use_beam_search else 1,
        "complete": complete,
        "entry_length": 8,
        "repetition_penalty": 1.3,
        "length_penalty": 0.6,
        "no_repeat_ngram": 3,
    }
    together = captions_of(logits_of, videos, **options)
    alone = [captions_of(logits_of, [video], **options)[0] for video in videos]
    assert together == alone
    assert len({h.length for hypotheses in together for h in hypotheses}) > 3  # they do finish at different steps


def test_finished_videos_leave_the_batch() -> None:
    logits_of = random_logits(3, 7)
    videos = [f"video{i}" for i in range(40)]
    settings = DecodingSettings(use_beam_search=False, entry_length=8)
    model = HistoryModel(videos, logits_of)
    found = decode(model, 40, [1], settings)
    # The model is asked once after each token of a caption, and of finished ones while they are few.
    needed = sum(len(h.tokens) for (h,) in found if not h.cut) + 8 * sum(h.cut for (h,) in found)
    assert needed <= model.lane_steps <= needed / STILL_GOING < 8 * 40


@pytest.mark.parametrize(("complete", "steps"), [(False, 4), (True, 5)])
def test_the_model_is_not_asked_after_the_last_needed_step(complete: bool, steps: int) -> None:
    never_ends = torch.tensor([2.0, -9.0, 1.0])
    model = HistoryModel(["a"], lambda video, history: never_ends)
    decode(model, 1, [1], DecodingSettings(entry_length=5, beam_size=2, complete=complete))
    assert model.steps == steps


@property_settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(["beam", "greedy", "sample"]),
    num_return=st.integers(1, 4),
    entry_length=st.integers(1, 6),
    levels=st.sampled_from([None, 2]),
    length_penalty=st.sampled_from([0.0, 1.0, 1.5]),
    stops=st.sampled_from([[4], [0, 5]]),
)
def test_complete_captions_end(
    seed: int,
    mode: str,
    num_return: int,
    entry_length: int,
    levels: int | None,
    length_penalty: float,
    stops: list[int],
) -> None:
    logits_of = random_logits(seed, 9, levels=levels)
    num_return = 1 if mode == "greedy" else num_return
    videos = ["a", "b"]
    found = captions_of(
        logits_of,
        videos,
        stops,
        use_beam_search=mode == "beam",
        sample=mode == "sample",
        beam_size=4,
        num_return=num_return,
        entry_length=entry_length,
        length_penalty=length_penalty,
    )
    for video, hypotheses in zip(videos, found, strict=True):
        assert len(hypotheses) == num_return
        assert [(h.cut, -h.score) for h in hypotheses] == sorted((h.cut, -h.score) for h in hypotheses)
        for h in hypotheses:
            assert h.ended
            assert h.stop_token in stops
            assert not set(h.tokens) & set(stops)
            assert len(h.tokens) <= entry_length
            assert h.length == len(h.tokens) + 1
            assert h.tokens or not h.cut
            assert h.logprob == pytest.approx(recomputed_logprob(logits_of, video, h), abs=1e-4)
            assert h.score == pytest.approx(h.logprob / h.length**length_penalty, abs=1e-4)
        if mode == "beam":
            assert len({(*h.tokens, h.stop_token) for h in hypotheses}) == len(hypotheses)


@property_settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), entry_length=st.integers(1, 6), levels=st.sampled_from([None, 3]))
def test_greedy_takes_the_likeliest_token_and_backs_off_to_its_best_ending(
    seed: int, entry_length: int, levels: int | None
) -> None:
    logits_of = random_logits(seed, 8, levels=levels)
    stop = 2

    tokens: list[int] = []
    logprob = 0.0
    completions: list[tuple[float, list[int]]] = []
    ended = False
    while not ended and len(tokens) <= entry_length:
        logprobs = log_softmax(logits_of("a", tuple(tokens)))
        if tokens:
            completions.append(((logprob + float(logprobs[stop])) / (len(tokens) + 1), list(tokens)))
        token = int(logprobs.argmax())
        ended = token == stop
        if not ended:
            tokens.append(token)
        logprob += float(logprobs[token])
    expected = tokens if ended else max(completions, key=lambda c: c[0])[1]

    options = {"entry_length": entry_length, "stop": stop}
    ((greedy,),) = captions_of(logits_of, ["a"], use_beam_search=False, **options)
    assert greedy.tokens == expected
    assert greedy.cut == (not ended)
    assert greedy == captions_of(logits_of, ["a"], beam_size=1, **options)[0][0]
    ((unfinished,),) = captions_of(logits_of, ["a"], use_beam_search=False, complete=False, **options)
    assert unfinished.tokens == (tokens if ended else tokens[:entry_length])[:entry_length]


def chain(*likeliest: int) -> LogitsOf:
    """A model that is nearly sure of one sentence, and of nothing in particular after it."""

    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        logits = torch.zeros(6)
        if len(history) < len(likeliest) and history == likeliest[: len(history)]:
            logits[likeliest[len(history)]] = 10.0
        return logits

    return logits_of


def test_a_caption_of_exactly_entry_length_that_wants_to_end_has_ended() -> None:
    sentence = chain(3, 4, 5, 1)
    for use_beam_search in (True, False):
        ((h,),) = captions_of(sentence, ["a"], entry_length=3, use_beam_search=use_beam_search)
        assert (h.tokens, h.ended, h.cut) == ([3, 4, 5], True, False)
        ((h,),) = captions_of(sentence, ["a"], entry_length=3, use_beam_search=use_beam_search, complete=False)
        assert (h.tokens, h.ended, h.cut) == ([3, 4, 5], False, True)


def test_a_longer_caption_gives_way_to_the_best_shorter_one() -> None:
    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        logits = chain(3, 4, 5, 3, 4, 5, 3)(video, history)
        if history == (3, 4):
            logits[1] = 9.0  # "3 4" is nearly a sentence
        return logits

    ((h,),) = captions_of(logits_of, ["a"], entry_length=5, use_beam_search=False)
    assert (h.tokens, h.ended, h.cut, h.stop_token) == ([3, 4], True, True, 1)


def test_text_is_unfinished_only_where_no_ending_is_possible() -> None:
    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        logits = chain(3, 4, 5, 3)(video, history)
        logits[1] = -torch.inf
        return logits

    for options in ({}, {"use_beam_search": False}, {"use_beam_search": False, "top_k": 1}):
        ((h,),) = captions_of(logits_of, ["a"], entry_length=4, **options)
        assert (h.tokens, h.ended, h.cut, h.stop_token) == ([3, 4, 5, 3], False, True, None)


def test_the_ended_come_before_the_cut_and_no_caption_comes_twice() -> None:
    # One sentence ends; the others that the beam of 4 follows never want to.
    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        logits = torch.tensor([0.0, -3.0, 1.0, 2.0, 3.0, 2.5])
        if history == (4, 4):
            logits[1] = 9.0
        return logits

    (found,) = captions_of(logits_of, ["a"], entry_length=4, beam_size=4, num_return=4)
    assert [h.cut for h in found] == [False, True, True, True]
    assert found[0].tokens == [4, 4]
    assert len({tuple(h.tokens) for h in found}) == 4


def test_a_vocabulary_smaller_than_the_beam() -> None:
    logits_of = random_logits(1, 3)
    (found,) = captions_of(logits_of, ["a"], beam_size=5, num_return=5, entry_length=1, complete=False)
    assert [with_stop(h) for h in found] == [[t] for t in logits_of("a", ()).argsort(descending=True).tolist()]


def test_large_vocabularies_with_ties_take_the_lowest_ids() -> None:
    logits = torch.zeros(5000)
    logits[[4321, 17, 2500, 999]] = 5.0
    (found,) = captions_of(
        lambda video, history: logits, ["a"], 0, beam_size=2, num_return=2, entry_length=1, complete=False
    )
    assert [h.tokens for h in found] == [[17], [999]]
    flat = torch.zeros(5000)
    (found,) = captions_of(
        lambda video, history: flat, ["a"], stop=9, beam_size=3, num_return=3, entry_length=2, complete=False
    )
    assert [h.tokens for h in found] == [[0, 0], [0, 1], [0, 2]]


def test_several_stop_tokens_take_the_likelier() -> None:
    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor([9.0, 1.0, 3.0, 2.0])

    ((h,),) = captions_of(logits_of, ["a"], stop=[1, 3, 2], use_beam_search=False, entry_length=3)
    assert (h.tokens, h.stop_token, h.cut) == ([0, 0, 0], 2, True)


@pytest.mark.parametrize("mode", [{}, {"use_beam_search": False}, {"use_beam_search": False, "sample": True}])
def test_logits_that_are_nan_are_reported(mode: dict[str, bool]) -> None:
    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        return torch.full((6,), torch.nan) if video == "bad" else torch.arange(6.0)

    with pytest.raises(ClipcapError, match="video bad"):
        captions_of(logits_of, ["good", "bad"], **mode)


def test_no_videos() -> None:
    assert captions_of(random_logits(0, 6), []) == []
