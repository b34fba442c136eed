"""A training run of any kind: the loop over the batches, its interruptions, its validation and its checkpoints."""

from __future__ import annotations

import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm import tqdm

from clipcap_video import console
from clipcap_video.devices import autocast
from clipcap_video.errors import ClipcapError, first_line
from clipcap_video.files import alone_in
from clipcap_video.optimisation import WeightAverage, seed_step, set_learning_rate
from clipcap_video.runs.options import options_of
from clipcap_video.runs.record import RUN_FILE, write_run
from clipcap_video.stopping import Stopped, stopped_by_signals
from clipcap_video.training.data import EpochOrder
from clipcap_video.training.log import RunLog
from clipcap_video.training.setup import FIRST_EPOCH
from clipcap_video.training.state import Progress, load_state, save_state

# Between two lines about a run whose progress no bar shows.
TELL_SECONDS = 60.0


@contextmanager
def ended_together(processes: int) -> Iterator[None]:
    """A block that ends with ClipcapError, in one sentence, where another of several processes has gone."""
    try:
        yield
    except RuntimeError as error:
        words = ("gloo", "NCCL", "onnection closed", "onnection reset")
        if processes == 1 or not any(word in str(error) for word in words):
            raise
        raise ClipcapError(
            f"another process of this run has ended ({first_line(error)}); start all of them again with --resume"
        ) from None


@dataclass(frozen=True)
class TrainingSummary:
    """steps done in all, whether the run came to its end, and the best validation score."""

    steps: int
    finished: bool
    best_score: float | None
    best_checkpoint: Path


@dataclass(frozen=True)
class Validation:
    """score: by which the best checkpoint is chosen. kept: what checkpoints say of it; logged: what metrics.jsonl does.

    line: one sentence for the terminal.
    """

    score: float
    kept: dict[str, float]
    logged: dict[str, Any]
    line: str


class Run(ABC):
    """One run of any kind: the loop over the batches, its interruptions and its checkpoints.

    command: by which it was started, for its record.
    has_validation: whether there is anything to validate on; otherwise the best checkpoint is the last.
    """

    command: ClassVar[str]
    has_validation: bool

    def __init__(
        self,
        config: Any,
        accelerator: Any,
        model: nn.Module,
        order: EpochOrder,
        optimizer: torch.optim.Optimizer,
        average: float = 0.0,
    ) -> None:
        """config: a TrainConfig or one with the same options of optimisation and checkpoints."""
        self.config, self.accelerator, self.order = config, accelerator, order
        self.bare_model = model
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        batches_a_step = config.grad_accum * accelerator.num_processes
        self.steps_per_epoch = math.ceil(len(self.order.batches(0)) / batches_a_step)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.progress = Progress()
        self.average = WeightAverage(model, average) if average else None
        self._told = -TELL_SECONDS
        self.log: RunLog | None = None  # of the main process, once the run has begun

    @abstractmethod
    def rate_factor(self, step: int) -> float:
        """Share of the peak learning rate in step 0, 1, ..."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch, on its way through the prepared model."""

    @abstractmethod
    def validate(self) -> Validation | None:
        """Scores of the model on the validation split; None where there is none."""

    @abstractmethod
    def sources(self) -> dict[str, Any]:
        """What the run learns from, for its record."""

    @abstractmethod
    def restore(self) -> None:
        """Checks that OUT/last is of this run, and fills the model with its weights."""

    @abstractmethod
    def write(self, directory: Path, progress: dict[str, Any], extra: Callable[[Path], None] | None) -> None:
        """Saves a checkpoint of the model."""

    @abstractmethod
    def logged(self, batches: list[Any], seconds: float) -> dict[str, float]:
        """What metrics.jsonl says of a step over `batches` that took so long, beside loss and rate."""

    def size(self) -> str:
        """What the run learns from, in words."""
        captions = sum(len(captions) for captions in self.order.data.captions)
        return f"{len(self.order.data):,} videos, {captions:,} captions"

    def announcement(self) -> str:
        """How long the run is, in words."""
        return f"{self.total_steps:,} steps"

    def after_step(self) -> None:  # noqa: B027
        """What has to be restored after the optimiser has moved the weights."""

    def go(self, resuming: bool) -> TrainingSummary:
        config = self.config
        self.data_digest = f"{self.order.data.digest()}-{self.accelerator.num_processes}"
        if not self.accelerator.is_main_process:
            return self._go(resuming)
        config.out_dir.mkdir(parents=True, exist_ok=True)
        with alone_in(config.out_dir, "training in"):
            return self._go(resuming)

    def _go(self, resuming: bool) -> TrainingSummary:
        config = self.config
        if resuming:
            self.restore()
            self.progress = load_state(config.out_dir / "last", self.optimizer, self.average)
        if self.accelerator.is_main_process:
            if not resuming:
                if (config.out_dir / "last").exists():
                    raise ClipcapError(f"another process has trained in {config.out_dir}; continue that with --resume")
                (config.out_dir / FIRST_EPOCH).touch()
            write_run(config.out_dir / RUN_FILE, self.command, options_of(config), self.sources(), **self._machine())
            self.log = RunLog(config, self.accelerator, self.progress.step if resuming else None)
            self._announce()
        say = "stopping after this step; press Ctrl-C again to stop at once without saving"
        # Of several processes, all have to be at the same place.
        alone = self.accelerator.num_processes == 1
        with (
            stopped_by_signals(threading.Event(), say, breaks=alone) as stop,
            ended_together(self.accelerator.num_processes),
        ):
            while self.progress.epoch < config.epochs and not self._out_of_time():
                self._epoch(stop)
                if self._agreed(stop.is_set()):
                    self._save("last")
                    return self._summary(finished=False)
        return self._summary(finished=True)

    def _machine(self) -> dict[str, Any]:
        """What `auto` became, and what else the bits depend on, for the run's record."""
        return {
            "device": str(self.accelerator.device),
            "precision": "bf16" if self.accelerator.mixed_precision == "bf16" else "fp32",
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "steps": self.total_steps,
        }

    def _announce(self) -> None:
        trained = sum(p.numel() for p in self.bare_model.parameters() if p.requires_grad)
        print(
            f"{self.size()}; {trained:,} weights to train; {self.announcement()} on {self.accelerator.device}",
            file=sys.stderr,
        )

    def _epoch(self, stop: threading.Event) -> None:
        """The rest of the current epoch, its validation and its checkpoints."""
        config, progress = self.config, self.progress
        self.model.train()
        groups = self.groups(progress.epoch)
        bar = tqdm(
            total=len(groups),
            initial=progress.step_in_epoch,
            desc=f"epoch {progress.epoch + 1}/{config.epochs}",
            unit="step",
            disable=console.hides_bars(self.accelerator.is_main_process),
        )
        with bar:
            for group in groups[progress.step_in_epoch :]:
                if self._agreed(stop.is_set()):
                    return
                if self._out_of_time():
                    break
                started = time.perf_counter()
                try:
                    with self.autocast():
                        batches = list(self.load(group))
                except Stopped:  # while captions were sampled for the step, which a resumed run does anew
                    return
                loss = self._step(batches)
                progress.step += 1
                progress.step_in_epoch += 1
                progress.seconds += time.perf_counter() - started
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
                self._tell_now_and_then(loss, bar.disable)
        before = replace(progress)
        if progress.step_in_epoch == len(groups):
            progress.epoch += 1
            progress.step_in_epoch = 0
        try:
            self._close_epoch()
        except Stopped:  # while it validated, which a resumed run does anew
            vars(progress).update(vars(before))

    def _tell_now_and_then(self, loss: float, no_bar: bool) -> None:
        """Where no bar shows it, how far the run is: after its first step, and then each minute."""
        now = time.monotonic()
        if not no_bar or not self.accelerator.is_main_process or now - self._told < TELL_SECONDS:
            return
        self._told = now
        progress = self.progress
        console.say(f"epoch {progress.epoch + 1}, step {progress.step:,} of {self.total_steps:,}: loss {loss:.3f}")

    def _agreed(self, mine: bool) -> bool:
        """Whether it is so in any process: what one does, all have to do."""
        if self.accelerator.num_processes == 1:
            return mine
        return bool(self.accelerator.reduce(torch.tensor(float(mine), device=self.accelerator.device)).item())

    def _out_of_time(self) -> bool:
        """Whether the run has trained for as long as it may; all processes agree."""
        limit = self.config.max_minutes * 60
        if not limit:
            return False
        seconds = [self.progress.seconds]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(seconds)
        return seconds[0] >= limit

    def groups(self, epoch: int) -> list[list[list[int]]]:
        """The batches of each step of this process; the last ones wrap around, so that all processes do as many."""
        batches, config = self.order.batches(epoch), self.config
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return [
            [
                batches[((step * config.grad_accum + turn) * world + rank) % len(batches)]
                for turn in range(config.grad_accum)
            ]
            for step in range(self.steps_per_epoch)
        ]

    def load(self, group: list[list[int]]) -> Iterator[Any]:
        """The batches of one step."""
        return self.order.load(self.progress.epoch, group)

    def _step(self, batches: list[Any]) -> float:
        """One optimiser step over `batches`; returns the loss seen by this process."""
        config, step, started = self.config, self.progress.step, time.perf_counter()
        factor = self.rate_factor(step)
        set_learning_rate(self.optimizer, factor)
        seed_step(config.seed, step, self.accelerator.process_index)
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            # Gradients travel between processes once a step, with the last batch.
            last = number == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.loss(batch.to(self.accelerator.device))
                self.accelerator.backward(loss / len(batches))
            total += loss.item() / len(batches)
        if self._agreed(not math.isfinite(total)):
            raise ClipcapError(
                f"the loss became {total} in step {step + 1}; lower --lr or try --precision fp32 "
                "(checkpoints of earlier epochs are untouched)"
            )
        if config.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.after_step()
        if self.average is not None:
            self.average.update()
        if self.log is not None:
            logged = self.logged(batches, time.perf_counter() - started)
            self.log.write(step=step + 1, epoch=self.progress.epoch, loss=total, lr=config.lr * factor, **logged)
        return total

    def autocast(self) -> AbstractContextManager[object]:
        """The run's precision. It ends with its block whatever ends that, which accelerate 1.2's own does not."""
        return autocast(self.accelerator.device, "bf16" if self.accelerator.mixed_precision == "bf16" else "fp32")

    def rehearse(self, group: list[list[int]]) -> None:
        """One step with batches of the first epoch, before the run begins: weights change, nothing is written."""
        self._step(list(self.load(group)))

    def _close_epoch(self) -> None:
        """Validates and saves after an epoch, or the part of one that there was time for, in the main process."""
        config, progress = self.config, self.progress
        validation: Validation | None = None
        finished = progress.epoch == config.epochs or self._out_of_time()
        number = progress.epoch + (1 if progress.step_in_epoch else 0)
        due = config.eval_every and (finished or progress.epoch % config.eval_every == 0)
        if self.log is not None:
            if due:
                with self.autocast(), self._averaged():
                    validation = self.validate()
            if validation is not None:
                self.log.write(step=progress.step, epoch=progress.epoch, **validation.logged)
                print(f"epoch {progress.epoch}: {validation.line}", file=sys.stderr)
            improved = validation is not None and (
                progress.best_score is None or validation.score > progress.best_score
            )
            if validation is not None and improved:
                progress.best_score = validation.score
            if improved or not self.has_validation or not config.eval_every:
                self._save("best", validation, state=False)
            if config.save_every and (finished or progress.epoch % config.save_every == 0):
                # The ClipCap programs number epochs from 0: ten epochs end in PREFIX-009.
                self._save(f"{config.prefix}-{number - 1:03d}", validation, state=False)
            self._save("last", validation)
            if validation is not None:
                self.log.draw()
        self.accelerator.wait_for_everyone()

    def _save(self, name: str, validation: Validation | None = None, state: bool = True) -> None:
        if not self.accelerator.is_main_process:
            return
        progress = asdict(self.progress) | {"data_digest": self.data_digest}
        if validation is not None:
            progress |= validation.kept
        extra = (lambda partial: save_state(partial, self.progress, self.optimizer, self.average)) if state else None
        with self._averaged():
            self.write(self.config.out_dir / name, progress, extra)
        if state:
            (self.config.out_dir / FIRST_EPOCH).unlink(missing_ok=True)

    def _averaged(self) -> AbstractContextManager[None]:
        """A block in which the model has its averaged weights, where they are kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _summary(self, finished: bool) -> TrainingSummary:
        if self.log is not None:
            self.log.close()
        best = self.config.out_dir / "best"
        return TrainingSummary(self.progress.step, finished, self.progress.best_score, best)
