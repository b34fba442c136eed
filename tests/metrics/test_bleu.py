"""BLEU from counts, by hand and over a corpus."""

from __future__ import annotations

import math

import pytest

from clipcap_video.metrics.bleu import Bleu, bleu, bleu_counts


def test_bleu_is_no_mean_of_sentence_scores(few) -> None:  # type: ignore[no-untyped-def]
    predictions, references = few
    counts = bleu_counts({video: [text] for video, text in predictions.items()}, references)
    assert bleu(counts.sum(0))[3] != pytest.approx(bleu(counts)[:, 3].mean(), rel=0.05)


def test_counts_and_scores_by_hand() -> None:
    # Of "the cat sat" all words are in a reference, and both pairs, each in another one; the closer
    # reference has four words.
    hypotheses, targets = {"v": ["the cat sat"]}, {"v": ["the cat ran far away", "a cat sat down"]}
    (row,) = bleu_counts(hypotheses, targets)
    assert row.tolist() == [3, 4, 3, 2, 1, 0, 3, 2, 0, 0]
    brevity = math.exp(1 - 4 / 3)
    assert bleu(row)[:2] == pytest.approx([brevity, brevity])
    assert bleu(row)[2:] == pytest.approx([0, 0], abs=1e-3)
    figures = Bleu().score(hypotheses, targets)
    assert [figures.scores[f"Bleu_{n}"] for n in range(1, 5)] == pytest.approx(bleu(row).tolist())


def test_a_word_that_is_said_again_counts_as_often_as_a_reference_says_it() -> None:
    (row,) = bleu_counts({"v": ["the the the"]}, {"v": ["the cat and the dog"]})
    assert (row[2], row[6]) == (3, 2)
