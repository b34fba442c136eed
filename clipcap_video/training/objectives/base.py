"""What every objective offers to a training run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.training.data import CaptionData, EpochOrder


class Objective(nn.Module, ABC):
    """What a run minimises: a module around the captioner, with whatever else it trains beside that.

    `forward` is what the run calls, so that gradients of all weights in here travel between processes.
    """

    def __init__(self, captioner: CaptionModel) -> None:
        super().__init__()
        self.captioner = captioner

    @classmethod
    @abstractmethod
    def build(
        cls, config: Any, captioner: CaptionModel, data: CaptionData, records: Sequence[VideoRecord]
    ) -> Objective:
        """The objective that `config`, a TrainConfig, asks for.

        data: of the training split, tokenised; records: the same videos. Raises ClipcapError when a part is missing.
        """

    @abstractmethod
    def forward(self, batch: PackedCaptions) -> Tensor:
        """The loss of a batch, a number."""

    def load(self, order: EpochOrder, epoch: int, step: int, group: Sequence[list[int]]) -> Iterator[PackedCaptions]:
        """The batches of one step, of the videos in each list of `group`."""
        yield from order.load(epoch, group)

    def after_step(self) -> None:
        """Corrects what the optimiser may have moved too far."""

    def logged(self) -> dict[str, float]:
        """Further numbers of the last step for metrics.jsonl."""
        return {}

    def own_weights(self) -> dict[str, Tensor]:
        """What it trains beside the captioner, on the CPU, for the checkpoint."""
        state = self.state_dict().items()
        return {name: tensor.detach().cpu() for name, tensor in state if not name.startswith("captioner.")}

    def restore(self, checkpoint: Path) -> None:
        """Takes its own weights from a checkpoint of the same run. Raises ClipcapError when they are not there."""
        from clipcap_video.models.checkpoint import OBJECTIVE_WEIGHTS, fill, objective_weights

        if wanted := self.own_weights():
            fill(self, wanted, objective_weights(checkpoint), checkpoint / OBJECTIVE_WEIGHTS)
