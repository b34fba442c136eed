"""Learning rates and weights over a run."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from clipcap_video.optimisation import WeightAverage, cosine_factor, learning_rate_factor, warmup_length


def test_the_schedule_is_that_of_the_released_code() -> None:
    """Linear over the first tenth, then half a cosine that counts from the beginning."""
    assert [cosine_factor(step, 0.1, 100) for step in (0, 5)] == [0, 0.5]
    assert cosine_factor(10, 0.1, 100) == pytest.approx((1 + math.cos(0.1 * math.pi)) / 2)
    assert cosine_factor(50, 0.1, 100) == pytest.approx(0.5)
    assert cosine_factor(0, 0.0, 10) == 1


class TestLearningRate:
    def test_warmup_never_exceeds_the_run(self) -> None:
        assert warmup_length(5000, 120) == 120
        assert warmup_length(30, 120) == 30
        assert warmup_length(-1, 120) == 6
        assert warmup_length(0, 120) == 0

    @pytest.mark.parametrize("warmup", [0, 1, 10, 50])
    def test_rises_then_falls_and_never_stands_still(self, warmup: int) -> None:
        factors = [learning_rate_factor(step, warmup, 50) for step in range(50)]
        assert all(0 < factor <= 1 for factor in factors)
        peak = max(range(50), key=factors.__getitem__)
        assert peak == min(warmup, 49)
        assert all(a < b for a, b in pairwise(factors[: peak + 1]))
        assert all(a > b for a, b in pairwise(factors[peak:]))


class TestWeightAverage:
    def test_is_the_moving_average(self) -> None:
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(model.weight, 1.0)
        average = WeightAverage(model, 0.5)
        expected = 1.0
        for number, value in enumerate([3.0, -2.0, 8.0, 1.0, 4.0, 4.0, 0.0, 9.0, 2.0, 5.0], start=1):
            torch.nn.init.constant_(model.weight, value)
            average.update()
            decay = min(0.5, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * value
        with average.in_place():
            assert model.weight.item() == pytest.approx(expected)
        assert model.weight.item() == 5.0

    def test_leaves_frozen_weights_alone(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
        model[0].requires_grad_(False)
        average = WeightAverage(model, 0.9)
        torch.nn.init.constant_(model[0].weight, 7.0)
        average.update()
        with average.in_place():
            assert model[0].weight.item() == 7.0
