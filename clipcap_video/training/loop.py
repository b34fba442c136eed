"""The training run: from a TrainConfig to checkpoints in its out_dir."""

from __future__ import annotations

import math
import signal
import sys
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

from clipcap_video.datasets.packing import PackedCaptions
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import make_accelerator, pick_device, pick_precision
from clipcap_video.encoders import load_text_encoder
from clipcap_video.encoders.trainable import load_trained_layers
from clipcap_video.errors import ClipcapError
from clipcap_video.features import FeatureStore, open_features
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import (
    ENCODER_WEIGHTS,
    WEIGHTS,
    CheckpointInfo,
    find_checkpoint,
    keep_consensus,
    load_weights,
    save_checkpoint,
)
from clipcap_video.runs import RUN_FILE, digests, file_digest, options_of, store_facts, write_run
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import CaptionData, EpochOrder, TokenTexts
from clipcap_video.training.frames import FrameStore, open_frames
from clipcap_video.training.log import RunLog, check_tracker
from clipcap_video.training.optimisation import (
    WeightAverage,
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
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
from clipcap_video.training.state import Progress, load_state, save_state
from clipcap_video.training.texts import embed_once
from clipcap_video.training.validation import validate


@dataclass(frozen=True)
class TrainingSummary:
    """steps done in all, whether the run came to its end, and the best validation score (CIDEr of a captioner)."""

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


def train(config: TrainConfig) -> TrainingSummary:
    """Trains a captioner and leaves `best`, `last` and `PREFIX-EPOCH` checkpoints in config.out_dir.

    Beside them are metrics.jsonl, curves.png and run.yaml, which repeats the run. Ctrl-C stops after the current step
    and saves; a run with `resume` then ends in the same weights as one that was never stopped. Raises ClipcapError on
    bad input, before anything is written, and when the loss is not finite.
    """
    run, resuming = prepare(config)
    return run.go(resuming)


def prepare(config: TrainConfig) -> tuple[_Run, bool]:
    """A run before its first step, and whether it goes on from an earlier one. Writes nothing."""
    resuming = has_run(config)
    check_tracker(config.track)
    assert config.data is not None
    store = open_features(config.data)
    if config.train_encoder == "all":
        store = open_frames(config, store)
    training, validation = read_records(config, store)
    max_frames = count_frames(config, store, training)
    device = pick_device(config.device)
    precision = pick_precision(device, config.precision)
    accelerator = make_accelerator(device, precision, config.track, config.out_dir / "tracking")
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(config.text_encoder, device, precision) if config.retrieval_loss else None
    model = build_model(config, store, training, max_frames, encoder.dim if encoder else 0)
    prepare_language_model(model, precision)

    def tokenise(records: list[VideoRecord]) -> CaptionData:
        def encode(captions: list[str]) -> list[list[int]]:
            return model.encode_captions(captions, config.max_caption_tokens)

        return CaptionData.tokenise(records, store, encode, max_frames, model.ignored_label)

    if config.reference:
        training = [replace(record, captions=record.captions[:1]) for record in training]
    train_data, eval_data = tokenise(training), tokenise(validation)
    if encoder is not None:
        texts = [caption for record in training for caption in record.captions]
        tokens = model.encode_captions(texts, config.max_caption_tokens)
        train_data.texts = TokenTexts(tokens, embed_once(encoder, texts, config.text_cache))
    if config.reference and len(train_data) < config.bs:
        raise ClipcapError(
            f"--recipe reference trains on whole batches, and {len(train_data)} videos fill none of {config.bs}; "
            "lower --bs"
        )
    return _Run(config, accelerator, model, store, train_data, eval_data, training, validation), resuming


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
        """Checks that OUT_DIR/last is of this run, and fills the model with its weights."""

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
        """What has to be mended after the optimiser has moved the weights."""

    def go(self, resuming: bool) -> TrainingSummary:
        config = self.config
        self.data_digest = f"{self.order.data.digest()}-{self.accelerator.num_processes}"
        if resuming:
            self.restore()
            self.progress = load_state(config.out_dir / "last", self.optimizer, self.average)
        if self.accelerator.is_main_process:
            config.out_dir.mkdir(parents=True, exist_ok=True)
            write_run(config.out_dir / RUN_FILE, self.command, options_of(config), self.sources(), **self._machine())
            self.log = RunLog(config, self.accelerator, self.progress.step if resuming else None)
            self._announce()
        with _interruptible() as interrupted:
            while self.progress.epoch < config.epochs and not self._out_of_time():
                self._epoch(interrupted)
                if self._agreed(bool(interrupted)):
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

    def _epoch(self, interrupted: list[bool]) -> None:
        """The rest of the current epoch, its validation and its checkpoints."""
        config, progress = self.config, self.progress
        self.model.train()
        groups = self.groups(progress.epoch)
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
                    batches = list(self.load(group))
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

    def rehearse(self, group: list[list[int]]) -> None:
        """One step with batches of the first epoch, before the run begins: weights change, nothing is written."""
        self._step(list(self.load(group)))

    def _close_epoch(self) -> None:
        """Validates and saves after an epoch, or the part of one that there was time for, in the main process."""
        config, progress = self.config, self.progress
        found: Validation | None = None
        finished = progress.epoch == config.epochs or self._out_of_time()
        number = progress.epoch + (1 if progress.step_in_epoch else 0)
        due = config.eval_every and (finished or progress.epoch % config.eval_every == 0)
        if self.log is not None:
            if due:
                with self.accelerator.autocast(), self._averaged():
                    found = self.validate()
            if found is not None:
                self.log.write(step=progress.step, epoch=progress.epoch, **found.logged)
                print(f"epoch {progress.epoch}: {found.line}", file=sys.stderr)
            improved = found is not None and (progress.best_score is None or found.score > progress.best_score)
            if found is not None and improved:
                progress.best_score = found.score
            if improved or not self.has_validation or not config.eval_every:
                self._save("best", found, state=False)
            if config.save_every and (finished or progress.epoch % config.save_every == 0):
                # The ClipCap programs number epochs from 0: ten epochs end in PREFIX-009.
                self._save(f"{config.prefix}-{number - 1:03d}", found, state=False)
            self._save("last", found)
            if found is not None:
                self.log.draw()
        self.accelerator.wait_for_everyone()

    def _save(self, name: str, found: Validation | None = None, state: bool = True) -> None:
        if not self.accelerator.is_main_process:
            return
        progress = asdict(self.progress) | {"data_digest": self.data_digest}
        if found is not None:
            progress |= found.kept
        extra = (lambda partial: save_state(partial, self.progress, self.optimizer, self.average)) if state else None
        with self._averaged():
            self.write(self.config.out_dir / name, progress, extra)

    def _averaged(self) -> AbstractContextManager[None]:
        """A block in which the model has its averaged weights, where they are kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _summary(self, finished: bool) -> TrainingSummary:
        if self.log is not None:
            self.log.close()
        best = self.config.out_dir / "best"
        return TrainingSummary(self.progress.step, finished, self.progress.best_score, best)


class _Run(Run):
    """The run of a captioner."""

    command = "train"

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Any,
        model: CaptionModel,
        store: FeatureStore,
        train_data: CaptionData,
        eval_data: CaptionData,
        training: list[VideoRecord],
        validation: list[VideoRecord],
    ) -> None:
        self.store, self.train_data, self.eval_data, self.validation = store, train_data, eval_data, validation
        self.has_validation = bool(validation)
        self.captioner = model
        backbone = model.backbone()
        pretrained = [] if backbone is None else list(backbone.parameters())
        known = set(map(id, pretrained))
        fresh = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups = parameter_groups([(fresh, config.lr), (pretrained, config.backbone_lr)], config.weight_decay)
        # 1e-6 is the default of the AdamW that the MSR-VTT ClipCap program takes from transformers.
        optimizer = make_optimizer(groups, config.lr, eps=1e-6 if config.reference else 1e-8)
        order = EpochOrder(train_data, config.bs, config.captions_per_video, config.seed, config.reference)
        super().__init__(config, accelerator, model, order, optimizer, config.average)
        self.scst = None if config.objective == "xe" else self._self_critical(train_data, training)
        # That program's warm-up may be longer than its run, whose rate then never reaches the peak.
        longest = config.warmup_steps if config.reference else self.total_steps
        self.warmup = warmup_length(config.warmup_steps, max(longest, self.total_steps))

    def _self_critical(self, data: CaptionData, training: list[VideoRecord]) -> SelfCritical:
        config = self.config
        return SelfCritical(
            self.captioner,
            data,
            training,
            samples=config.samples,
            baseline=config.baseline,
            top_p=config.sample_top_p,
            max_tokens=min(EVAL_ENTRY_LENGTH, config.max_caption_tokens),
            seed=config.seed,
        )

    def announcement(self) -> str:
        return f"{self.total_steps:,} steps ({self.warmup:,} of warm-up)"

    def rate_factor(self, step: int) -> float:
        return learning_rate_factor(step, self.warmup, self.total_steps, from_zero=self.config.reference)

    def loss(self, batch: PackedCaptions) -> Tensor:
        """In nats per token, and W times the contrastive loss in nats."""
        weight = self.config.retrieval_loss
        # Only prefix captioners learn to retrieve.
        return self.model(batch, self.config.label_smoothing, *([weight] if weight else []))

    def logged(self, batches: list[PackedCaptions], seconds: float) -> dict[str, float]:
        tokens = round(sum(len(batch.labels) for batch in batches) / seconds)
        reward = {} if self.scst is None else {"reward": self.scst.mean_reward}
        return {"tokens_per_second": tokens, **reward}

    def load(self, group: list[list[int]]) -> Iterator[PackedCaptions]:
        """The captions of these videos, or samples of the model's own."""
        return super().load(group) if self.scst is None else self.scst.load(self.progress.step, group)

    def after_step(self) -> None:
        self.captioner.clamp_scale()

    def validate(self) -> Validation | None:
        if not self.validation:
            return None
        config = self.config
        scores = validate(
            self.captioner, self.eval_data, self.validation, config.bs, EVAL_ENTRY_LENGTH, config.eval_beam_size
        )
        kept = {"val_loss": scores.loss, "val_CIDEr": scores.cider}
        line = f"validation loss {scores.loss:.3f}, CIDEr {scores.cider:.3f}, e.g. {scores.example!r}"
        return Validation(scores.cider, kept, kept | {"example": scores.example}, line)

    def sources(self) -> dict[str, Any]:
        config, training = self.config, self.train_data
        start = None if config.init_from is None else find_checkpoint(config.init_from) / WEIGHTS
        return {
            "init_from": None if start is None else {str(start.resolve()): file_digest(start)},
            "features": store_facts(self.store.fingerprint, self.store.path, training.video_ids),
            "annotations": digests(config.caption or []),
            "training_data": self.data_digest,
            "language_model": getattr(self.captioner.config, "language_model_digest", None),
            "warmup_steps": self.warmup,
        }

    def restore(self) -> None:
        last = self.config.out_dir / "last"
        check_continues(self.config, self.store, self.captioner, self.data_digest)
        load_weights(self.captioner, last / WEIGHTS)
        if isinstance(self.store, FrameStore):
            load_trained_layers(self.store.encoder, last / ENCODER_WEIGHTS)

    def write(self, directory: Path, progress: dict[str, Any], extra: Callable[[Path], None] | None) -> None:
        fingerprint = self.captioner.fingerprint(self.store.fingerprint)
        info = CheckpointInfo(fingerprint, self.config.to_json(), progress)
        # It was trained on the features, not on the captioner, so it still fits one that goes on.
        keep_ranker = keep_consensus(directory)

        def more(partial: Path) -> None:
            keep_ranker(partial)
            if extra is not None:
                extra(partial)

        save_checkpoint(directory, self.captioner, info, extra=more)


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
