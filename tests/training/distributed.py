"""What a process of a run over several does: the gradient of its first step, for each of several runs, into a file.

torchrun --nproc_per_node 2 tests/training/distributed.py CASES.json GRADIENTS.pt
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.train import train_retrieval
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.loop import Run
from clipcap_video.training.run import train
from tests.bag_of_words import use_bag_of_words


def gradients(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """Name of a case -> name of a weight -> its gradient in the first step. cases: options of the runs."""
    found: dict[str, dict[str, Tensor]] = {}
    name = ""

    def first_step(run: Run, resuming: bool) -> None:
        def keep() -> None:
            named = run.bare_model.named_parameters()
            found[name] = {weight: value.grad.clone() for weight, value in named if value.grad is not None}

        run.optimizer.step = keep
        run.model.train()
        run._step(list(run.load(run.groups(0)[0])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "go", first_step)
        use_bag_of_words(patch)
        for name, options in cases.items():  # noqa: B007
            if "text_encoder" in options:
                train_retrieval(RetrievalTrainConfig(**options))
            else:
                train(TrainConfig(**options))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = gradients(json.loads(Path(sys.argv[1]).read_text()))
    if torch.distributed.get_rank() == 0:
        torch.save(made, sys.argv[2])
    torch.distributed.destroy_process_group()
