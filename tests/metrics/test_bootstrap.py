"""Bootstrap intervals against corpora that are really drawn, captioned and scored again by the official scorers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.bootstrap import interval, resample_weights
from clipcap_video.metrics.captioning import describe_scores, save_scores, score_captions
from tests.metrics.conftest import drawn_corpora


def test_bleu_and_rouge_of_resamples_are_those_of_the_drawn_corpora(few) -> None:  # type: ignore[no-untyped-def]
    weights = resample_weights(25, 40, seed=3)
    found = score_captions(*few, java=False, bootstrap=40, seed=3)
    again = [score_captions(*corpus, java=False) for corpus in drawn_corpora(few, weights)]
    for metric in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L"):
        expected = interval(np.array([scores[metric] for scores in again]))
        assert found.intervals[metric] == pytest.approx(expected, abs=1e-9), metric
        assert expected[0] < found[metric] < expected[1]


def test_document_frequencies_stay_those_of_all_references(few) -> None:  # type: ignore[no-untyped-def]
    found = score_captions(*few, java=False, bootstrap=60, seed=1)
    weights = resample_weights(25, 60, seed=1)
    own = np.array([found.per_video[video] for video in few[0]])
    means = [np.repeat(own, row).mean() for row in weights]
    assert found.intervals["CIDEr"] == pytest.approx(interval(np.array(means)), abs=1e-12)
    # Recomputed in each drawn corpus they would shrink with its fewer distinct videos, and CIDEr with them.
    again = [score_captions(*corpus, java=False)["CIDEr"] for corpus in drawn_corpora(few, weights[:5])]
    assert not np.allclose(again, means[:5], rtol=0.01)


def test_intervals_of_means_come_near_the_normal_ones() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    low, high = interval(resample_weights(400, 4000, seed=0) @ values / 400)
    error = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.15 * error)


def test_weights_draw_as_many_videos_as_there_are() -> None:
    weights = resample_weights(7, 2500, seed=0)
    assert weights.shape == (2500, 7)
    assert (weights.sum(1) == 7).all()
    assert weights.mean(0) == pytest.approx(np.ones(7), abs=0.08)
    assert (resample_weights(7, 2500, seed=0) == weights).all()
    assert (resample_weights(7, 2500, seed=1) != weights).any()


def test_too_few_resamples_are_refused(few) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ClipcapError, match="--bootstrap 10 is too few"):
        score_captions(*few, java=False, bootstrap=10)


def test_intervals_are_shown_and_saved_only_when_asked_for(few, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plain = score_captions(*few, java=False)
    with_intervals = score_captions(*few, java=False, bootstrap=50)
    assert plain.scores == with_intervals.scores
    assert "95 %" not in describe_scores(plain)
    low, high = with_intervals.intervals["CIDEr"]
    assert f"[{100 * low:.2f}, {100 * high:.2f}] in 95 %" in describe_scores(with_intervals)
    for scores, wanted in ((plain, False), (with_intervals, True)):
        save_scores(scores, tmp_path / "scores.json", None)
        assert ("intervals" in json.loads((tmp_path / "scores.json").read_text())) == wanted
