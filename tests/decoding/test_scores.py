"""Repetition penalties, against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.scores import forbid_repeated_ngrams, likeliest, penalise_repetition
from clipcap_video.decoding.search import decode
from tests.decoding_models import HistoryModel, random_logits, recomputed_logprob


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
