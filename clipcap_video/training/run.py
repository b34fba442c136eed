"""The training run of a captioner: from a TrainConfig to checkpoints in its out_dir."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipcap_video import console
from clipcap_video.datasets.cleaning import fix_captions, plain_caption
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import make_accelerator, pick_device, pick_precision
from clipcap_video.encoders.trainable import load_trained_layers
from clipcap_video.encoders.weights import write_weights
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.layouts import open_features
from clipcap_video.files import spelled
from clipcap_video.metrics.captioning import require_figure
from clipcap_video.models.checkpoint import (
    ENCODER_WEIGHTS,
    OBJECTIVE_WEIGHTS,
    WEIGHTS,
    CheckpointInfo,
    find_checkpoint,
    keep_consensus,
    load_weights,
    save_checkpoint,
)
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.optimisation import learning_rate_factor, make_optimizer, parameter_groups, warmup_length
from clipcap_video.runs.record import digests, file_digest, store_facts
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import LONGEST_CAPTION, CaptionData, EpochOrder
from clipcap_video.training.frames import FrameStore, open_frames
from clipcap_video.training.log import check_tracker
from clipcap_video.training.loop import Run, TrainingSummary, Validation
from clipcap_video.training.objectives.base import Objective
from clipcap_video.training.prompts import fit_prompts
from clipcap_video.training.setup import (
    build_model,
    check_continues,
    count_frames,
    has_run,
    read_records,
)
from clipcap_video.training.text_only import caption_videos, fill_memory
from clipcap_video.training.validation import validate


def train(config: TrainConfig) -> TrainingSummary:
    """Trains a captioner and leaves `best`, `last` and `PREFIX-EPOCH` checkpoints in config.out_dir.

    Beside them are metrics.jsonl, curves.png and run.yaml, which repeats the run. Ctrl-C stops after the current step
    and saves; a run with `resume` then ends in the same weights as one that was never stopped. Raises ClipcapError on
    bad input, before anything is written, and when the loss is not finite.
    """
    run, resuming = prepare(config)
    return run.go(resuming)


def prepare(config: TrainConfig) -> tuple[CaptioningRun, bool]:
    """A run before its first step, and whether it resumes an earlier one. Writes nothing."""
    resuming = has_run(config)
    check_tracker(config.track)
    if config.eval_every:
        require_figure(config.best_by)
    assert config.data is not None
    console.say(f"reading features in {spelled(config.data)} and their captions")
    store = open_features(config.data)
    if config.train_encoder == "all":
        store = open_frames(config, store)
    training, validation = read_records(config, store)
    device = pick_device(config.device)
    precision = pick_precision(device, config.precision)
    source, ids = store, [record.video_id for record in training]
    if config.text_only:
        source, training = caption_videos(store, cleaned(config, training), device, precision)
        ids = store.ids()
    max_frames = count_frames(config, store, ids)
    accelerator = make_accelerator(device, precision, config.track, config.out_dir / "tracking")
    torch.manual_seed(config.seed)
    captions = sum(len(record.captions) for record in training)
    size = f"{captions:,} captions" if config.text_only else f"{len(training):,} videos with {captions:,} captions"
    console.say(f"{size}; loading the models and tokenising")
    model = build_model(config, source, training, max_frames)
    if config.text_only and config.init_from is None:
        fill_memory(model, source, config.seed)
    # What is frozen is cast once, not in every step.
    model.keep_in(precision, device, frozen_only=True)

    def tokenise(records: list[VideoRecord], store: FeatureStore) -> CaptionData:
        def encode(captions: list[str]) -> list[list[int]]:
            return model.encode_captions(captions, config.max_caption_tokens)

        return CaptionData.tokenise(records, store, encode, max_frames, model.ignored_label)

    training = cleaned(config, training)
    if config.lower_case:
        validation = fix_captions(validation, plain_caption)
    train_data, eval_data = tokenise(training, source), tokenise(validation, store)
    if isinstance(model, PrefixCaptioner) and model.config.prompt_length:
        fit_prompts(model, train_data, config.seed, device, apart=config.origin_token)
    if config.reference and len(train_data) < config.bs:
        raise ClipcapError(
            f"--recipe reference trains on whole batches, and {len(train_data)} videos fill none of {config.bs}; "
            "lower --bs"
        )
    objective = config.objective_options.load_objective().build(config, model, train_data, training)
    return CaptioningRun(config, accelerator, objective, store, train_data, eval_data, validation), resuming


def cleaned(config: TrainConfig, training: list[VideoRecord]) -> list[VideoRecord]:
    """The training split with the captions that are learned; what is clean stays as it is."""
    if config.reference:
        training = [replace(record, captions=record.captions[:1]) for record in training]
    elif not config.raw_captions:
        training = fix_captions(training)
    return fix_captions(training, plain_caption) if config.lower_case else training


class CaptioningRun(Run):
    """The run of a captioner."""

    command = "train"

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Any,
        objective: Objective,
        store: FeatureStore,
        train_data: CaptionData,
        eval_data: CaptionData,
        validation: list[VideoRecord],
    ) -> None:
        self.store, self.train_data, self.eval_data, self.validation = store, train_data, eval_data, validation
        self.has_validation = bool(validation)
        self.objective, self.captioner = objective, objective.captioner
        backbone = self.captioner.backbone()
        pretrained = [] if backbone is None else list(backbone.parameters())
        known = set(map(id, pretrained))
        fresh = [parameter for parameter in objective.parameters() if id(parameter) not in known]
        groups = parameter_groups(
            [(fresh, config.lr), (pretrained, config.model_options.backbone_lr)], config.weight_decay
        )
        # 1e-6 is the default of the AdamW that the MSR-VTT ClipCap program takes from transformers.
        optimizer = make_optimizer(groups, config.lr, eps=1e-6 if config.reference else 1e-8)
        order = EpochOrder(train_data, config.bs, config.captions_per_video, config.seed, config.reference)
        super().__init__(config, accelerator, objective, order, optimizer, config.average)
        # That program's warm-up may be longer than its run, whose rate then never reaches the peak.
        longest = config.warmup_steps if config.reference else self.total_steps
        self.warmup = warmup_length(config.warmup_steps, max(longest, self.total_steps))

    def announcement(self) -> str:
        return f"{self.total_steps:,} steps ({self.warmup:,} of warm-up)"

    def rate_factor(self, step: int) -> float:
        return learning_rate_factor(step, self.warmup, self.total_steps, from_zero=self.config.reference)

    def loss(self, batch: PackedCaptions) -> Tensor:
        return self.model(batch)

    def logged(self, batches: list[PackedCaptions], seconds: float) -> dict[str, float]:
        tokens = round(sum(len(batch.labels) for batch in batches) / seconds)
        return {"tokens_per_second": tokens, **self.objective.logged()}

    def load(self, group: list[list[int]]) -> Iterator[PackedCaptions]:
        yield from self.objective.load(self.order, self.progress.epoch, self.progress.step, group)

    def after_step(self) -> None:
        self.objective.after_step()

    def validate(self) -> Validation | None:
        if not self.validation:
            return None
        config = self.config
        figures = list(dict.fromkeys(["CIDEr", config.best_by]))
        beams = config.eval_beam_size
        scores = validate(self.captioner, self.eval_data, self.validation, config.bs, LONGEST_CAPTION, beams, figures)
        kept = {"val_loss": scores.loss} | {f"val_{figure}": score for figure, score in scores.figures.items()}
        said = ", ".join(f"{figure} {score:.3f}" for figure, score in scores.figures.items())
        line = f"validation loss {scores.loss:.3f}, {said}, e.g. {scores.example!r}"
        return Validation(scores.figures[config.best_by], kept, kept | {"example": scores.example}, line)

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
        self.objective.restore(last)
        if isinstance(self.store, FrameStore):
            load_trained_layers(self.store.encoder, last / ENCODER_WEIGHTS)

    def write(self, directory: Path, progress: dict[str, Any], extra: Callable[[Path], None] | None) -> None:
        fingerprint = self.captioner.fingerprint(self.store.fingerprint)
        info = CheckpointInfo(fingerprint, self.config.to_json(), progress)
        # It was trained on the features, not on the captioner, so it still fits one that is trained on.
        keep_ranker = keep_consensus(directory)

        weights = self.objective.own_weights()

        def more(partial: Path) -> None:
            keep_ranker(partial)
            if weights:
                write_weights(partial / OBJECTIVE_WEIGHTS, weights, torch.float32)
            if extra is not None:
                extra(partial)

        save_checkpoint(directory, self.captioner, info, extra=more)
