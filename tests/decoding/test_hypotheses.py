"""Penalties and n-grams against transformers' own; the distribution drawn from; batches do not matter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding import hypotheses as hypotheses_module
from clipcap_video.decoding.hypotheses import (
    Hypothesis,
    draw_continuations,
    forbid_repeated_ngrams,
    likeliest,
    penalise_repetition,
)
from clipcap_video.decoding.search import decode
from tests.decoding_models import HistoryModel, LogitsOf, random_logits, recomputed_logprob

# Six tokens and their probabilities; not in order of size.
PROBABILITIES = torch.tensor([0.10, 0.30, 0.05, 0.20, 0.33, 0.02])


def sampling(**options: object) -> DecodingSettings:
    return DecodingSettings(use_beam_search=False, sample=True, **options)  # type: ignore[arg-type]


def captions_of(logits_of: LogitsOf, videos: list[str], settings: DecodingSettings) -> list[list[Hypothesis]]:
    return decode(HistoryModel(videos, logits_of, [1]), len(videos), [1], settings, video_keys=videos)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 2.0}, PROBABILITIES.sqrt()),
        ({"temperature": 0.5}, PROBABILITIES**2),
        ({"top_k": 3}, PROBABILITIES * torch.tensor([0, 1, 0, 1, 1, 0])),
        ({"top_p": 0.6}, PROBABILITIES * torch.tensor([0, 1, 0, 0, 1, 0])),
        ({"top_p": 0.7}, PROBABILITIES * torch.tensor([0, 1, 0, 1, 1, 0])),
        # Top-p comes after top-k: 0.33 and 0.30 are 0.76 of the three tokens, 0.63 of all.
        ({"top_k": 3, "top_p": 0.7}, PROBABILITIES * torch.tensor([0, 1, 0, 0, 1, 0])),
        # ... and after the temperature, at which they are 0.47.
        ({"temperature": 2.0, "top_p": 0.5}, PROBABILITIES.sqrt() * torch.tensor([0, 1, 0, 1, 1, 0])),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(options: dict[str, float], weights: torch.Tensor) -> None:
    count = 4000
    settings = sampling(num_return=count, entry_length=1, complete=False, **options)
    (found,) = captions_of(lambda video, history: PROBABILITIES.log(), ["a"], settings)
    drawn = [h.stop_token if h.ended else h.tokens[0] for h in found]
    counts = torch.bincount(torch.tensor(drawn), minlength=6).double()
    expected = weights.double() / weights.sum() * count
    assert not counts[expected == 0].any()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 25  # five degrees of freedom at most: exceeded once in 7,000 seeds
    for h, token in zip(found, drawn, strict=True):
        assert h.logprob == pytest.approx(math.log(PROBABILITIES[token]), abs=1e-5)


def test_lanes_and_steps_are_independent() -> None:
    uniform = torch.zeros(3)
    count = 2000
    settings = sampling(num_return=count, entry_length=2, complete=False)
    (found,) = captions_of(
        lambda video, history: torch.cat([uniform, torch.tensor([-math.inf])]).roll(2), ["a"], settings
    )
    pairs: dict[tuple[int, ...], int] = {}
    for h in found:
        tokens = (*h.tokens, *([] if h.stop_token is None else [h.stop_token]))
        pairs[tokens] = pairs.get(tokens, 0) + 1
    # Tokens 0, 2 and 3 (1 would stop, and is the impossible one after the roll) in all nine pairs.
    chi_square = sum((pairs.get((a, b), 0) - count / 9) ** 2 / (count / 9) for a in (0, 2, 3) for b in (0, 2, 3))
    assert sum(pairs.values()) == count
    assert chi_square < 35


@property_settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    options=st.sampled_from(
        [
            {"use_beam_search": True, "beam_size": 4, "num_return": 4},
            {"use_beam_search": True, "beam_size": 3, "repetition_penalty": 1.3},
            {"use_beam_search": False, "sample": True, "top_p": 0.8, "num_return": 3},
        ]
    ),
    complete=st.booleans(),
)
def test_logits_in_bf16_are_looked_at_as_the_same_numbers_in_float32(
    seed: int, options: dict[str, Any], complete: bool
) -> None:
    logits_of = random_logits(seed, 9)
    settings = DecodingSettings(entry_length=5, complete=complete, **options)
    rounded = captions_of(lambda video, history: logits_of(video, history).bfloat16(), ["a", "b"], settings)
    same = captions_of(lambda video, history: logits_of(video, history).bfloat16().float(), ["a", "b"], settings)
    assert rounded == same


@property_settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    options=st.sampled_from([{"top_k": 1}, {"top_p": 1e-6}, {"top_k": 3, "top_p": 1e-6}, {"temperature": 1e-4}]),
    complete=st.booleans(),
)
def test_narrow_sampling_is_greedy(seed: int, options: dict[str, float], complete: bool) -> None:
    logits_of = random_logits(seed, 9)
    greedy = DecodingSettings(use_beam_search=False, entry_length=5, complete=complete)
    sampled = sampling(entry_length=5, complete=complete, **options)
    assert captions_of(logits_of, ["a", "b"], sampled) == captions_of(logits_of, ["a", "b"], greedy)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.8, "temperature": 1.5}, {"no_repeat_ngram": 1}])
@pytest.mark.parametrize("complete", [True, False])
def test_a_batch_is_as_one_at_a_time(options: dict[str, float], complete: bool) -> None:
    logits_of = random_logits(5, 7, levels=4)
    settings = sampling(entry_length=8, num_return=3, complete=complete, **options)
    videos = [f"video{i}" for i in range(20)]
    together = captions_of(logits_of, videos, settings)
    assert together == [captions_of(logits_of, [video], settings)[0] for video in videos]
    assert together == captions_of(logits_of, videos[::-1], settings)[::-1]
    assert len({h.length for hypotheses in together for h in hypotheses}) > 3


def test_seed_and_video_decide() -> None:
    def same(video: str, history: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor([0.0, -20.0] + [0.0] * 50)

    def tokens(video: str, seed: int) -> list[int]:
        ((h,),) = captions_of(same, [video], sampling(seed=seed, entry_length=10, complete=False))
        return h.tokens

    assert tokens("a", 0) == tokens("a", 0)
    assert len({tuple(tokens(video, seed)) for video in ("a", "b", "1") for seed in (0, 1, 10)}) == 9


def test_a_lane_that_did_not_end_gives_its_own_completion() -> None:
    # Lanes part at the first token, and only those that began with 2 ever want to end.
    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        if not history:
            return torch.tensor([-math.inf, -math.inf, 0.0, 0.0])
        if history[0] == 2:
            return torch.tensor([-math.inf, 20.0, 0.0, 0.0])
        return torch.tensor([-math.inf, -20.0 if len(history) != 3 else -5.0, -math.inf, 0.0])

    (found,) = captions_of(logits_of, ["a"], sampling(num_return=8, entry_length=6))
    assert len(found) == 8
    ended = [h for h in found if not h.cut]
    assert 0 < len(ended) < 8
    assert found[: len(ended)] == ended
    assert all(h.tokens == [2] for h in ended)
    assert all(h.tokens == [3, 3, 3] and h.stop_token == 1 for h in found[len(ended) :])


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_a_nucleus_beyond_the_first_guess(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypotheses_module, "NUCLEUS_GUESS", 4)
    logits = torch.randn(3, 2, 500, generator=torch.Generator().manual_seed(0))
    probabilities, tokens = logits.double().softmax(-1).sort(descending=True)
    kept = probabilities.cumsum(-1) - probabilities < top_p
    grid = torch.linspace(0, 1 - 2**-24, 20_000).expand(3, 2, -1)
    drawn = draw_continuations(logits, grid, sampling(top_p=top_p))
    for video in range(3):
        for lane in range(2):
            reachable = set(tokens[video, lane][kept[video, lane]].tolist())
            found = set(drawn[video, lane].tolist())
            assert found <= reachable
            # The grid steps over tokens less likely than one in 20,000 only.
            assert len(reachable - found) <= 2


def test_the_ends_of_the_unit_interval_draw_possible_tokens() -> None:
    logits = torch.tensor([-math.inf, 0.3, 0.1, -0.7, -math.inf]).repeat(1, 1, 1)
    ends = torch.tensor([0.0, 1 - 2**-24]).reshape(1, 1, 2)
    assert draw_continuations(logits, ends, sampling()).flatten().tolist() == [1, 3]
    rounded_up = torch.ones(1, 1, 1)
    assert draw_continuations(logits, rounded_up, sampling()).item() == 1


def logits_and_history(seed: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 6, generator=generator) * 3
    return logits, torch.randint(6, (3, 4, length), generator=generator)


@property_settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 12), penalty=st.sampled_from([0.5, 1.2, 3.0]))
def test_repetition_penalty_is_that_of_transformers(seed: int, length: int, penalty: float) -> None:
    logits, history = logits_and_history(seed, length)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(history.flatten(0, 1), logits.flatten(0, 1).clone())
    assert torch.equal(penalise_repetition(logits, history, penalty).flatten(0, 1), expected)


@property_settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 12), n=st.integers(1, 4))
def test_forbidden_ngrams_are_those_of_transformers(seed: int, length: int, n: int) -> None:
    logits, history = logits_and_history(seed, length)
    expected = NoRepeatNGramLogitsProcessor(n)(history.flatten(0, 1), logits.flatten(0, 1).clone())
    assert torch.equal(forbid_repeated_ngrams(logits, history, n).flatten(0, 1), expected)


def test_an_empty_history_changes_nothing() -> None:
    logits, _ = logits_and_history(0, 1)
    empty = torch.zeros(3, 4, 0, dtype=torch.int64)
    assert torch.equal(penalise_repetition(logits, empty, 2.0), logits)
    assert torch.equal(forbid_repeated_ngrams(logits, empty, 1), logits)


@pytest.mark.parametrize("options", [{"beam_size": 4, "num_return": 4}, {"use_beam_search": False, "top_k": 3}])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_captions_repeat_no_ngram_and_keep_the_models_logprob(options: dict[str, Any], n: int) -> None:
    # Without the processor these models say little but 2 and 3.
    plain = random_logits(n, 8)
    favourites = torch.tensor([0.0, -6.0, 6.0, 6.0, 0.0, 0.0, 0.0, 0.0])

    def logits_of(video: str, history: tuple[int, ...]) -> torch.Tensor:
        return plain(video, history) + favourites

    videos = [f"video{i}" for i in range(5)]
    settings = DecodingSettings(entry_length=9, no_repeat_ngram=n, repetition_penalty=1.1, **options)
    found = decode(HistoryModel(videos, logits_of), 5, [1], settings)
    for video, hypotheses in zip(videos, found, strict=True):
        for h in hypotheses:
            ngrams = [tuple(h.tokens[i : i + n]) for i in range(len(h.tokens) - n + 1)]
            assert len(set(ngrams)) == len(ngrams)
            assert h.logprob == pytest.approx(recomputed_logprob(logits_of, video, h), abs=1e-4)
            assert h.score != pytest.approx(h.mean_logprob, abs=1e-4)


def test_the_penalties_see_the_lane_that_a_hypothesis_came_from() -> None:
    """Each hypothesis is scored under penalties recomputed from its own tokens alone."""
    logits_of = random_logits(11, 8)
    settings = DecodingSettings(
        entry_length=6, beam_size=4, num_return=4, repetition_penalty=1.7, no_repeat_ngram=2, complete=False
    )
    (found,) = decode(HistoryModel(["a"], logits_of), 1, [1], settings)
    for h in found:
        tokens = h.tokens + ([] if h.stop_token is None else [h.stop_token])
        total = 0.0
        for place, token in enumerate(tokens):
            history = torch.tensor([tokens[:place]], dtype=torch.int64)
            logits = logits_of("a", tuple(tokens[:place]))[None].clone()
            if place:
                logits = RepetitionPenaltyLogitsProcessor(1.7)(history, logits)
                logits = NoRepeatNGramLogitsProcessor(2)(history, logits)
            total += float(logits.log_softmax(-1)[0, token])
        assert h.score == pytest.approx(total / h.length, abs=1e-5)


@pytest.mark.parametrize("vocabulary", [7, 1000, 4099])
@pytest.mark.parametrize("kind", ["distinct", "tied", "forbidden"])
def test_likeliest_finds_the_greatest_values(vocabulary, kind):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(3, 2, vocabulary, generator=generator)
    if kind == "tied":
        logits = logits.round()
    if kind == "forbidden":
        logits = logits.masked_fill(torch.rand(logits.shape, generator=generator) < 0.98, float("-inf"))
    tokens = likeliest(logits, 6)
    torch.testing.assert_close(logits.gather(-1, tokens), logits.topk(6).values, rtol=0, atol=0)
    assert all(len(set(row)) == 6 for row in tokens.flatten(0, 1).tolist())
