"""ROUGE-L by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clipcap_video.metrics.rouge import Rouge


def f_measure(precision: float, recall: float) -> float:
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)  # beta as the official scorer has it


def test_the_longest_common_subsequence_with_the_best_reference() -> None:
    # a b d of five words is common with the first reference of four; two words of two with the second.
    figures = Rouge().score({"v": ["a b c d e"], "w": ["x"]}, {"v": ["a b d f", "e d"], "w": ["y"]})
    assert figures.per_video == pytest.approx({"v": f_measure(3 / 5, 3 / 4), "w": 0})
    assert figures.scores["ROUGE_L"] == pytest.approx(f_measure(3 / 5, 3 / 4) / 2)


def test_precision_and_recall_may_be_of_two_references() -> None:
    figures = Rouge().score({"v": ["a b c d"]}, {"v": ["a b c x y z", "a"]})
    assert figures.per_video["v"] == pytest.approx(f_measure(3 / 4, 1))


def test_nothing_said_scores_nothing_even_where_nothing_was_to_be_said() -> None:
    assert Rouge().score({"v": [""]}, {"v": [""]}).scores == {"ROUGE_L": 0}


def test_resampled_corpora_are_means_of_their_videos() -> None:
    weights = np.array([[2, 0], [1, 1], [0, 2]])
    figures = Rouge().score({"v": ["a"], "w": ["b"]}, {"v": ["a"], "w": ["c"]}, weights)
    assert figures.drawn["ROUGE_L"].tolist() == [1, 0.5, 0]
