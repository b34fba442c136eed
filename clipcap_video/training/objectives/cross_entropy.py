"""Cross-entropy: every word of every caption is predicted from the video and the words before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.training.data import CaptionData
from clipcap_video.training.objectives.base import Objective


class CrossEntropy(Objective):
    """In nats a token. label_smoothing: the share of the target that is spread over the vocabulary."""

    def __init__(self, captioner: CaptionModel, label_smoothing: float = 0.0) -> None:
        super().__init__(captioner)
        self.label_smoothing = label_smoothing

    @classmethod
    def build(
        cls, config: Any, captioner: CaptionModel, data: CaptionData, records: Sequence[VideoRecord]
    ) -> CrossEntropy:
        return cls(captioner, config.label_smoothing)

    def forward(self, batch: PackedCaptions) -> Tensor:
        return self.captioner(batch, self.label_smoothing)
