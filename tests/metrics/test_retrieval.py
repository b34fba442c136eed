"""Ranks in chunks against the naive full matrix; figures computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import clipcap_video.metrics.retrieval as retrieval
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.bootstrap import interval, resample_weights
from clipcap_video.metrics.retrieval import RankScores, score_matrix, score_vectors


def naive(similarity: np.ndarray, video_of: np.ndarray) -> tuple[list[int], list[int]]:
    """Ranks of texts' videos and of videos among videos, by sorting whole rows; ties in order of index."""
    texts, videos = similarity.shape
    there = [sorted(range(videos), key=lambda v: (-similarity[t, v], v)).index(video_of[t]) + 1 for t in range(texts)]
    back = []
    for video in range(videos):
        best = [max(similarity[t, video] for t in range(texts) if video_of[t] == other) for other in range(videos)]
        back.append(sorted(range(videos), key=lambda other: (-best[other], other)).index(video) + 1)
    return there, back


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 9), st.integers(1, 40), st.integers(0, 10_000))
def test_chunks_equal_the_naive_matrix(videos: int, more: int, cells: int, seed: int) -> None:
    """Small whole numbers, so that products are exact and ties are common."""
    rng = np.random.default_rng(seed)
    video_of = rng.permutation(np.concatenate([np.arange(videos), rng.integers(0, videos, more)]))
    text, video = (rng.integers(-1, 2, (count, 3)).astype(np.float32) for count in (len(video_of), videos))
    there, back = naive(text @ video.T, video_of)
    vectors = torch.from_numpy(text), torch.from_numpy(video), torch.from_numpy(video_of)
    before = retrieval.CELLS_AT_ONCE
    retrieval.CELLS_AT_ONCE = cells
    try:
        by_vectors = score_vectors(*vectors)
        by_matrix = score_matrix(vectors[0] @ vectors[1].T, vectors[2])
    finally:
        retrieval.CELLS_AT_ONCE = before
    expected = RankScores.of(torch.tensor(there)), RankScores.of(torch.tensor(back))
    assert (by_vectors.text_to_video, by_vectors.video_to_text) == expected
    assert by_vectors == by_matrix


def test_figures_by_hand() -> None:
    scores = RankScores.of(torch.tensor([1, 2, 5, 6, 11, 20]))
    assert pytest.approx((100 / 6, 50, 400 / 6)) == (scores.R1, scores.R5, scores.R10)
    assert (scores.MdR, scores.MnR) == (5.5, 7.5)
    assert RankScores.of(torch.tensor([3, 1, 9])).MdR == 3


def test_chance_is_the_mean_over_all_ranks() -> None:
    every = RankScores.of(torch.arange(1, 717))
    by_chance = RankScores.by_chance(716)
    for name in ("R1", "R5", "R10", "MdR", "MnR"):
        assert getattr(by_chance, name) == pytest.approx(getattr(every, name))
    assert RankScores.by_chance(4).R5 == 100


def test_a_model_that_scores_everything_alike_is_as_good_as_chance() -> None:
    """Ties broken by index give every rank once; counted for the answer they would give R@1 of 100."""
    scores = score_matrix(torch.zeros(10, 10), torch.arange(10))
    assert scores.text_to_video == scores.video_to_text == RankScores.by_chance(10)


def test_several_captions_a_video() -> None:
    """Video 0 owns texts 0 and 1. Each text is a query; to a video the closer of two texts counts."""
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    scores = score_matrix(similarity, torch.tensor([0, 0, 1]))
    assert pytest.approx(200 / 3) == scores.text_to_video.R1
    # Video 0: its best is 0.9, the other's 0.3. Video 1: its own text gives 0.7, those of video 0 up to 0.8.
    assert (scores.video_to_text.R1, scores.video_to_text.MnR) == (50, 1.5)
    assert (scores.texts, scores.videos) == (3, 2)


def test_rows_are_never_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CELLS_AT_ONCE", 50)
    seen: list[int] = []

    def rows(start: int, end: int) -> Tensor:
        seen.append((end - start) * 20)
        return torch.zeros(end - start, 20)

    retrieval.score_retrieval(rows, rows, torch.arange(20), 20)
    assert max(seen) <= 50
    assert sum(seen) == 2 * 20 * 20


def test_similarities_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ClipcapError, match="not numbers"):
        score_matrix(torch.full((2, 2), float("nan")), torch.arange(2))


def test_intervals_are_those_of_queries_drawn_with_their_videos() -> None:
    generator = torch.Generator().manual_seed(0)
    video_of = torch.arange(20).repeat_interleave(3)
    scores = score_matrix(torch.randn(60, 20, generator=generator), video_of).with_intervals(60, seed=1)
    assert scores.ranks is not None
    weights = resample_weights(20, 60, 1)
    drawn = [RankScores.of(scores.ranks.of_texts.repeat_interleave(torch.from_numpy(row)[video_of])) for row in weights]
    for name, limits in scores.intervals["text_to_video"].items():
        assert limits == pytest.approx(interval(np.array([getattr(one, name) for one in drawn])))
    drawn = [RankScores.of(scores.ranks.of_videos.repeat_interleave(torch.from_numpy(row))) for row in weights]
    for name, limits in scores.intervals["video_to_text"].items():
        assert limits == pytest.approx(interval(np.array([getattr(one, name) for one in drawn])))
    assert "95 %, text to video: R1 [" in scores.table()
    assert "ranks" not in json.loads(json.dumps(scores.to_json()))
