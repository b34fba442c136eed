"""What a run needs to resume where it stopped: optimiser state and place, beside the `last` checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clipcap_video.files import reading, whole_file, writing
from clipcap_video.models.base import STATE
from clipcap_video.optimisation import WeightAverage


@dataclass
class Progress:
    """Where a run stands. epoch and step_in_epoch are the next to be done; step counts optimiser steps.

    best_score: highest validation score so far, None before the first. seconds: time spent in steps.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_score: float | None = None
    seconds: float = 0.0


def save_state(
    directory: Path, progress: Progress, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
) -> None:
    """average: the moving average that the checkpoint's own weights are, where there is one."""
    state = {"progress": asdict(progress), "optimizer": optimizer.state_dict()}
    if average is not None:
        state["weights"] = average.latest()
    torch.save(state, directory / STATE)


def load_state(directory: Path, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None) -> Progress:
    """Restores the optimiser and returns the place. Raises ClipcapError when the file is missing or does not fit.

    average: holds the checkpoint's weights, and the model gets those of the last step instead.
    """
    file = directory / STATE
    with reading(file, "where the run stands,", "start the run anew in another --out"):
        state = torch.load(file, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.resume(state["weights"])
        return Progress(**state["progress"])


class MetricsLog:
    """`metrics.jsonl`: one object a line, each with the optimiser step that it belongs to."""

    def __init__(self, file: Path, resume_at: int | None) -> None:
        """resume_at: lines of later steps are dropped, for they will be written again; None starts anew."""
        self.file = file
        if resume_at is not None and file.exists():
            with reading(file, "the metrics", "move it away"):
                lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
                kept = [line for line in map(json.loads, lines) if line["step"] <= resume_at]
            with whole_file(file) as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        else:
            with writing(file):
                file.write_text("", encoding="utf-8")

    def write(self, **values: Any) -> None:
        with writing(self.file), self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
