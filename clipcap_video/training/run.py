"""The training run of a captioner: from a TrainConfig to checkpoints in its out_dir."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipcap_video.datasets.cleaning import mend_captions
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import make_accelerator, pick_device, pick_precision
from clipcap_video.encoders import load_text_encoder
from clipcap_video.encoders.trainable import load_trained_layers
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.layouts import open_features
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
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.runs.record import digests, file_digest, store_facts
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import CaptionData, EpochOrder, TokenTexts
from clipcap_video.training.frames import FrameStore, open_frames
from clipcap_video.training.log import check_tracker
from clipcap_video.training.loop import Run, TrainingSummary, Validation
from clipcap_video.training.objectives.self_critical import SelfCritical
from clipcap_video.training.optimisation import learning_rate_factor, make_optimizer, parameter_groups, warmup_length
from clipcap_video.training.setup import (
    EVAL_ENTRY_LENGTH,
    build_model,
    check_continues,
    count_frames,
    has_run,
    prepare_language_model,
    read_records,
)
from clipcap_video.training.texts import embed_once
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
    elif not config.raw_captions:
        training = mend_captions(training)
    train_data, eval_data = tokenise(training), tokenise(validation)
    if encoder is not None:
        texts = [caption for record in training for caption in record.captions]
        tokens = model.encode_captions(texts, config.max_caption_tokens)
        train_data.texts = TokenTexts(tokens, embed_once(encoder, texts))
    if config.reference and len(train_data) < config.bs:
        raise ClipcapError(
            f"--recipe reference trains on whole batches, and {len(train_data)} videos fill none of {config.bs}; "
            "lower --bs"
        )
    return CaptioningRun(config, accelerator, model, store, train_data, eval_data, training, validation), resuming


class CaptioningRun(Run):
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
        groups = parameter_groups(
            [(fresh, config.lr), (pretrained, config.model_options.backbone_lr)], config.weight_decay
        )
        # 1e-6 is the default of the AdamW that the MSR-VTT ClipCap program takes from transformers.
        optimizer = make_optimizer(groups, config.lr, eps=1e-6 if config.reference else 1e-8)
        order = EpochOrder(train_data, config.bs, config.captions_per_video, config.seed, config.reference)
        super().__init__(config, accelerator, model, order, optimizer, config.average)
        self.scst = self._self_critical(train_data, training) if config.objective == "scst" else None
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
