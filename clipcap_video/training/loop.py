"""The training run: from a TrainConfig to checkpoints in its out_dir."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from clipcap_video.datasets.packing import PackedCaptions
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import make_accelerator, pick_device, pick_precision
from clipcap_video.errors import ClipcapError
from clipcap_video.features import FeatureStore, open_features
from clipcap_video.models.captioner import PrefixCaptioner
from clipcap_video.models.checkpoint import (
    CheckpointInfo,
    load_weights,
    save_checkpoint,
)
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import CaptionData, EpochOrder
from clipcap_video.training.optimisation import (
    WeightAverage,
    learning_rate_factor,
    make_optimizer,
    seed_step,
    set_learning_rate,
    warmup_length,
)
from clipcap_video.training.self_critical import SelfCritical
from clipcap_video.training.setup import (
    EVAL_ENTRY_LENGTH,
    build_model,
    check_continues,
    count_frames,
    has_run,
    prepare_language_model,
    read_records,
)
from clipcap_video.training.state import MetricsLog, Progress, load_state, save_state
from clipcap_video.training.validation import ValidationScores, validate


@dataclass(frozen=True)
class TrainingSummary:
    """steps done in all, whether the run came to its end, and the best validation CIDEr."""

    steps: int
    finished: bool
    best_score: float | None
    best_checkpoint: Path


def train(config: TrainConfig) -> TrainingSummary:
    """Trains a captioner and leaves `best`, `last` and `PREFIX-EPOCH` checkpoints in config.out_dir.

    Ctrl-C stops after the current step and saves; a run with `resume` then ends in the same weights as one that was
    never stopped. Raises ClipcapError on bad input, before anything is written, and when the loss is not finite.
    """
    resuming = has_run(config)
    assert config.data is not None
    store = open_features(config.data)
    training, validation = read_records(config, store)
    max_frames = count_frames(config, store, training)
    device = pick_device(config.device)
    precision = pick_precision(device, config.precision)
    accelerator = make_accelerator(device, precision)
    torch.manual_seed(config.seed)
    model = build_model(config, store, training, max_frames)
    prepare_language_model(model, precision)

    def tokenise(records: list[VideoRecord]) -> CaptionData:
        def encode(captions: list[str]) -> list[list[int]]:
            return model.encode_captions(captions, config.max_caption_tokens)

        return CaptionData.tokenise(records, store, encode, max_frames, model.ignored_label)

    if config.reference:
        training = [replace(record, captions=record.captions[:1]) for record in training]
    train_data, eval_data = tokenise(training), tokenise(validation)
    if config.reference and len(train_data) < config.bs:
        raise ClipcapError(
            f"--recipe reference trains on whole batches, and {len(train_data)} videos fill none of {config.bs}; "
            "lower --bs"
        )
    run = _Run(config, accelerator, model, store, train_data, eval_data, training, validation)
    return run.go(resuming)


class _Run:
    """One run: the parts, and the loop over them."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Any,
        model: PrefixCaptioner,
        store: FeatureStore,
        train_data: CaptionData,
        eval_data: CaptionData,
        training: list[VideoRecord],
        validation: list[VideoRecord],
    ) -> None:
        self.config, self.accelerator, self.store = config, accelerator, store
        self.eval_data, self.validation = eval_data, validation
        self.order = EpochOrder(train_data, config.bs, config.captions_per_video, config.seed, config.reference)
        self.bare_model = model
        self.scst = None if config.objective == "xe" else self._self_critical(training)
        # 1e-6 is the default of the AdamW that the MSR-VTT ClipCap program takes from transformers.
        eps = 1e-6 if config.reference else 1e-8
        optimizer = make_optimizer(model, config.lr, config.lm_lr, config.weight_decay, eps)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        batches_a_step = config.grad_accum * accelerator.num_processes
        self.steps_per_epoch = math.ceil(len(self.order.batches(0)) / batches_a_step)
        self.total_steps = self.steps_per_epoch * config.epochs
        # That program's warm-up may be longer than its run, whose rate then never reaches the peak.
        longest = config.warmup_steps if config.reference else self.total_steps
        self.warmup = warmup_length(config.warmup_steps, max(longest, self.total_steps))
        self.progress = Progress()
        self.average = WeightAverage(model, config.average) if config.average else None

    def _self_critical(self, training: list[VideoRecord]) -> SelfCritical:
        config = self.config
        return SelfCritical(
            self.bare_model,
            self.order.data,
            training,
            samples=config.samples,
            baseline=config.baseline,
            max_tokens=min(EVAL_ENTRY_LENGTH, config.max_caption_tokens),
            seed=config.seed,
        )

    def go(self, resuming: bool) -> TrainingSummary:
        config = self.config
        self.data_digest = f"{self.order.data.digest()}-{self.accelerator.num_processes}"
        if resuming:
            check_continues(config, self.store, self.bare_model, self.data_digest)
            load_weights(self.bare_model, config.out_dir / "last" / "model.safetensors")
            self.progress = load_state(config.out_dir / "last", self.optimizer, self.average)
        if self.accelerator.is_main_process:
            config.out_dir.mkdir(parents=True, exist_ok=True)
            self.log = MetricsLog(config.out_dir / "metrics.jsonl", self.progress.step if resuming else None)
            self._announce()
        with _interruptible() as interrupted:
            while self.progress.epoch < config.epochs and not self._out_of_time():
                self._epoch(interrupted)
                if self._agreed(bool(interrupted)):
                    self._save("last")
                    return self._summary(finished=False)
        return self._summary(finished=True)

    def _announce(self) -> None:
        trained = sum(p.numel() for p in self.bare_model.parameters() if p.requires_grad)
        captions = sum(len(captions) for captions in self.order.data.captions)
        print(
            f"{len(self.order.data):,} videos, {captions:,} captions; {trained:,} weights to train; "
            f"{self.total_steps:,} steps ({self.warmup:,} of warm-up) on {self.accelerator.device}",
            file=sys.stderr,
        )

    def _epoch(self, interrupted: list[bool]) -> None:
        """The rest of the current epoch, its validation and its checkpoints."""
        config, progress = self.config, self.progress
        self.model.train()
        groups = self._groups(progress.epoch)
        bar = tqdm(
            total=len(groups),
            initial=progress.step_in_epoch,
            desc=f"epoch {progress.epoch + 1}/{config.epochs}",
            unit="step",
            disable=None if self.accelerator.is_main_process else True,
        )
        with bar:
            for group in groups[progress.step_in_epoch :]:
                if self._agreed(bool(interrupted)):
                    return
                if self._out_of_time():
                    break
                started = time.perf_counter()
                with self.accelerator.autocast():
                    batches = list(self._load(group))
                loss = self._step(batches)
                progress.step += 1
                progress.step_in_epoch += 1
                progress.seconds += time.perf_counter() - started
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
        if progress.step_in_epoch == len(groups):
            progress.epoch += 1
            progress.step_in_epoch = 0
        self._close_epoch()

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

    def _groups(self, epoch: int) -> list[list[list[int]]]:
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

    def _load(self, group: list[list[int]]) -> Iterator[PackedCaptions]:
        """The batches of one step: the captions of these videos, or samples of the model's own."""
        if self.scst is not None:
            return self.scst.load(self.progress.step, group)
        return self.order.load(self.progress.epoch, group)

    def _step(self, batches: list[PackedCaptions]) -> float:
        """One optimiser step over `batches`; returns the loss in nats per token, seen by this process."""
        config, step, started = self.config, self.progress.step, time.perf_counter()
        factor = learning_rate_factor(step, self.warmup, self.total_steps, from_zero=config.reference)
        set_learning_rate(self.optimizer, factor)
        seed_step(config.seed, step, self.accelerator.process_index)
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            # Gradients travel between processes once a step, with the last batch.
            last = number == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.model(batch.to(self.accelerator.device), config.label_smoothing)
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
        if self.average is not None:
            self.average.update()
        if self.accelerator.is_main_process:
            tokens = sum(len(batch.labels) for batch in batches)
            rate = round(tokens / (time.perf_counter() - started))
            self.log.write(
                step=step + 1,
                epoch=self.progress.epoch,
                loss=total,
                lr=config.lr * factor,
                tokens_per_second=rate,
                **({} if self.scst is None else {"reward": self.scst.mean_reward}),
            )
        return total

    def _close_epoch(self) -> None:
        """Validates and saves after an epoch, or the part of one that there was time for, in the main process."""
        config, progress = self.config, self.progress
        scores: ValidationScores | None = None
        finished = progress.epoch == config.epochs or self._out_of_time()
        number = progress.epoch + (1 if progress.step_in_epoch else 0)
        due = config.eval_every and (finished or progress.epoch % config.eval_every == 0)
        if self.accelerator.is_main_process:
            if due and self.validation:
                with self.accelerator.autocast(), self._averaged():
                    scores = validate(
                        self.bare_model,
                        self.eval_data,
                        self.validation,
                        config.bs,
                        EVAL_ENTRY_LENGTH,
                        config.eval_beam_size,
                    )
                self.log.write(
                    step=progress.step, epoch=progress.epoch, val_loss=scores.loss, val_CIDEr=scores.cider,
                    example=scores.example,
                )  # fmt: skip
                print(
                    f"epoch {progress.epoch}: validation loss {scores.loss:.3f}, CIDEr {scores.cider:.3f}, "
                    f"e.g. {scores.example!r}",
                    file=sys.stderr,
                )
            improved = scores is not None and (progress.best_score is None or scores.cider > progress.best_score)
            if scores is not None and improved:
                progress.best_score = scores.cider
            if improved or not self.validation or not config.eval_every:
                self._save("best", scores, state=False)
            if config.save_every and (finished or progress.epoch % config.save_every == 0):
                # The ClipCap programs number epochs from 0: ten epochs end in PREFIX-009.
                self._save(f"{config.prefix}-{number - 1:03d}", scores, state=False)
            self._save("last", scores)
        self.accelerator.wait_for_everyone()

    def _save(self, name: str, scores: ValidationScores | None = None, state: bool = True) -> None:
        if not self.accelerator.is_main_process:
            return
        progress = asdict(self.progress) | {"data_digest": self.data_digest}
        if scores is not None:
            progress |= {"val_loss": scores.loss, "val_CIDEr": scores.cider}
        info = CheckpointInfo(self.store.fingerprint, self.config.to_json(), progress)
        extra = (lambda partial: save_state(partial, self.progress, self.optimizer, self.average)) if state else None
        with self._averaged():
            save_checkpoint(self.config.out_dir / name, self.bare_model, info, extra=extra)

    def _averaged(self) -> AbstractContextManager[None]:
        """A block in which the model has its averaged weights, where they are kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _summary(self, finished: bool) -> TrainingSummary:
        best = self.config.out_dir / "best"
        return TrainingSummary(self.progress.step, finished, self.progress.best_score, best)


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """Ctrl-C fills the list instead of breaking off a step; a second one breaks off at once."""
    interrupted: list[bool] = []

    def note(signum: int, frame: object) -> None:
        print("\nstopping after this step; press Ctrl-C again to stop at once without saving", file=sys.stderr)
        interrupted.append(True)
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: whoever started it there stops it otherwise
        yield interrupted
        return
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
