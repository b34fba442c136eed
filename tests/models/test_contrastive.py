"""The contrastive loss."""

from __future__ import annotations

import math

import pytest
import torch

from clipcap_video.models.contrastive import contrastive_loss
from tests.retrieval.test_model import model


class TestLoss:
    def test_is_the_mean_of_both_cross_entropies(self) -> None:
        similarity = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        rows = [math.log(1 + math.exp(1 - 2)), math.log(1 + math.exp(0 - 3))]
        columns = [math.log(1 + math.exp(0 - 2)), math.log(1 + math.exp(1 - 3))]
        expected = (sum(rows) / 2 + sum(columns) / 2) / 2
        assert contrastive_loss(similarity).item() == pytest.approx(expected)

    def test_another_text_of_the_same_video_is_no_negative(self) -> None:
        """Texts 0 and 2 belong to video 7: leaving either out of the other's sum."""
        similarity = torch.randn(3, 3)
        loss = contrastive_loss(similarity, torch.tensor([7, 8, 7]))
        allowed = [[0, 1], [0, 1, 2], [1, 2]]
        terms = [
            math.log(sum(math.exp(float(matrix[own, other] - matrix[own, own])) for other in allowed[own]))
            for matrix in (similarity, similarity.T)
            for own in range(3)
        ]
        assert loss.item() == pytest.approx(sum(terms) / 6, rel=1e-5)

    def test_the_scale_stays_at_100_or_below(self) -> None:
        retrieval = model("meanP")
        assert retrieval.head.logit_scale is not None
        retrieval.head.logit_scale.data.fill_(9.0)
        retrieval.clamp_scale()
        assert retrieval.head.logit_scale.exp().item() == pytest.approx(100)
