"""The probability that a caption holds no wrong word, against captions whose probability is known."""

from __future__ import annotations

import numpy as np
import pytest

from clipcap_video.captioning.calibration import RIGHT, fit


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.6)])
def test_it_finds_the_probabilities_that_right_and_wrong_were_drawn_with(slope: float, intercept: float) -> None:
    rng = np.random.default_rng(0)
    sureness = rng.uniform(0.02, 0.98, 20_000)
    true = 1 / (1 + np.exp(-slope * np.log(sureness / (1 - sureness)) - intercept))
    calibration = fit(sureness, rng.uniform(size=len(true)) < true, caution=2.0)
    ours = np.array([calibration.probability(one) for one in sureness])
    assert np.abs(ours - true).max() < 0.03
    kept = ours >= calibration.unsure_below
    assert true[kept].mean() == pytest.approx(RIGHT, abs=0.02)
    # No lower threshold would do.
    lower = ours >= calibration.unsure_below - 0.05
    assert true[lower].mean() < RIGHT


def test_where_no_threshold_does_everything_is_unsure() -> None:
    calibration = fit(np.array([0.2, 0.9, 0.8, 0.5]), np.zeros(4, bool), caution=0.0)
    assert calibration.probability(0.999) < calibration.unsure_below
