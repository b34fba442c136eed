"""What a run resumes from: the place, the optimiser's memory, the last weights, and the lines of metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from clipcap_video.errors import ClipcapError
from clipcap_video.models.base import STATE
from clipcap_video.optimisation import WeightAverage
from clipcap_video.training.state import MetricsLog, Progress, load_state, save_state


class Run:
    """A model that is taught to copy, with AdamW and an average of its weights."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.average = WeightAverage(self.model, 0.9)

    def step(self, number: int) -> None:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
        (self.model(x) - x).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()

    def weights(self) -> list[float]:
        return [value for weight in self.model.parameters() for value in weight.flatten().tolist()]


def test_a_run_that_is_put_back_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole, stopped, again = Run(), Run(), Run()
    for number in range(6):
        whole.step(number)
    for number in range(3):
        stopped.step(number)
    place = Progress(epoch=1, step_in_epoch=2, step=3, best_score=0.5, seconds=7.0)
    with stopped.average.in_place():  # as checkpoints are written
        save_state(tmp_path, place, stopped.optimizer, stopped.average)
        again.model.load_state_dict(stopped.model.state_dict())
    assert load_state(tmp_path, again.optimizer, again.average) == place
    assert again.weights() == stopped.weights()
    for number in range(3, 6):
        again.step(number)
    assert again.weights() == whole.weights()
    with again.average.in_place(), whole.average.in_place():
        assert again.weights() == whole.weights()


def test_a_state_that_is_missing_damaged_or_of_another_model_is_one_sentence(tmp_path: Path) -> None:
    run = Run()
    with pytest.raises(ClipcapError, match="start the run anew in another --out"):
        load_state(tmp_path, run.optimizer)
    other = torch.optim.AdamW([*nn.Linear(2, 2).parameters(), *nn.Linear(2, 2).parameters()])
    save_state(tmp_path, Progress(), other)
    with pytest.raises(ClipcapError, match="cannot read where the run stands"):
        load_state(tmp_path, run.optimizer)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-50])
    with pytest.raises(ClipcapError, match="cannot read where the run stands"):
        load_state(tmp_path, other)


def test_lines_of_steps_that_will_be_done_again_go(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog(file, None)
    for step in range(1, 6):
        log.write(step=step, loss=1 / step)
    with file.open("a") as stream:
        stream.write('{"step": 6, "lo')  # killed while it was written
    MetricsLog(file, resume_at=3).write(step=4, loss=0.0)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
    MetricsLog(file, None)
    assert file.read_text() == ""
    (tmp_path / "absent.jsonl").unlink(missing_ok=True)
    MetricsLog(tmp_path / "absent.jsonl", resume_at=3).write(step=4)
    assert (tmp_path / "absent.jsonl").read_text() == '{"step": 4}\n'
