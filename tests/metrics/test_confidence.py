"""The curve of CIDEr by confidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.confidence import confidence_curve, describe_curve, reliability


def test_bins_by_hand() -> None:
    confidence = {"a": -1.0, "b": -3.0, "c": -2.0, "d": -0.5, "e": -4.0, "unscored": 0.0}
    cider = {"a": 0.8, "b": 0.2, "c": 0.6, "d": 0.4, "e": 0.0}
    bins, correlation = confidence_curve(confidence, cider, bins=2)
    # Least confident first: e b c | a d
    assert [(part.lowest, part.highest, part.videos, part.kept) for part in bins] == [(-4, -2, 3, 5), (-1, -0.5, 2, 2)]
    assert [part.cider for part in bins] == pytest.approx([0.8 / 3, 0.6])
    assert [part.kept_cider for part in bins] == pytest.approx([0.4, 0.6])
    # Ranks by confidence: a 4, b 2, c 3, d 5, e 1; by CIDEr: a 5, b 2, c 4, d 3, e 1. Squared differences: 1, 1, 4.
    assert correlation == pytest.approx(1 - 6 * (1 + 1 + 4) / (5 * 24))
    assert "rank correlation" in describe_curve(bins, correlation)


def test_ties_share_their_rank_and_unknown_confidence_is_left_out() -> None:
    confidence = {"a": -1.0, "b": -1.0, "c": -2.0, "d": math.nan}
    bins, correlation = confidence_curve(confidence, {"a": 1.0, "b": 1.0, "c": 0.5, "d": 9.0})
    assert sum(part.videos for part in bins) == 3
    assert correlation == pytest.approx(1.0)
    assert math.isnan(confidence_curve({"a": -1.0, "b": -1.0}, {"a": 1.0, "b": 0.0})[1])


def test_captions_without_confidence_are_refused() -> None:
    with pytest.raises(ClipcapError, match="no log-probabilities"):
        confidence_curve({}, {"a": 1.0})


def test_reliability_by_hand() -> None:
    probability = {"a": 0.81, "b": 0.89, "c": 0.12, "d": 1.0}
    bins, error = reliability(probability, {"a": True, "b": False, "c": False, "d": True})
    assert [(one.captions, round(one.expected, 2), one.right) for one in bins] == [
        (1, 0.12, 0),
        (2, 0.85, 0.5),
        (1, 1, 1),
    ]
    assert error == pytest.approx((1 * 0.12 + 2 * 0.35 + 0) / 4)


def test_calibrated_captions_have_no_error() -> None:
    rng = np.random.default_rng(0)
    probability = {str(number): float(p) for number, p in enumerate(rng.uniform(size=50_000))}
    bins, error = reliability(probability, {name: bool(rng.uniform() < p) for name, p in probability.items()})
    assert len(bins) == 10
    assert error < 0.01


def test_reliability_needs_probabilities() -> None:
    with pytest.raises(ClipcapError, match="carry no probabilities"):
        reliability({"a": float("nan")}, {"a": True})
