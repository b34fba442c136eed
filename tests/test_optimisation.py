"""Learning rates and weights over a run."""

from __future__ import annotations

import math

import pytest

from clipcap_video.optimisation import cosine_factor


def test_the_schedule_is_that_of_the_released_code() -> None:
    """Linear over the first tenth, then half a cosine that counts from the beginning."""
    assert [cosine_factor(step, 0.1, 100) for step in (0, 5)] == [0, 0.5]
    assert cosine_factor(10, 0.1, 100) == pytest.approx((1 + math.cos(0.1 * math.pi)) / 2)
    assert cosine_factor(50, 0.1, 100) == pytest.approx(0.5)
    assert cosine_factor(0, 0.0, 10) == 1
