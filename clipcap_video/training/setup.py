"""What a training run needs before its first step: records, sizes read from the data, and the model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import match_features
from clipcap_video.datasets.records import VideoRecord, normal_split, select
from clipcap_video.encoders.trainable import TrainableEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.fingerprint import check_fingerprints
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import (
    CheckpointInfo,
    find_checkpoint,
    load_checkpoint,
    read_config,
    recover_checkpoint,
)
from clipcap_video.models.language_model import digest_language_model, keep_in, load_language_model
from clipcap_video.models.legacy import STOP_TEXT
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix import CaptionerConfig, PrefixCaptioner
from clipcap_video.models.recurrent import RecurrentCaptioner, RecurrentConfig
from clipcap_video.models.vocabulary import subword_tokenizer, word_tokenizer
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.frames import FrameStore

EVAL_ENTRY_LENGTH = 30


def has_run(config: Any, read: Callable[[Path], tuple[Any, CheckpointInfo]] = read_config) -> bool:
    """Whether config.out_dir holds a run to resume. Raises ClipcapError for one that the options do not continue.

    config: a RunConfig with out_dir and resume. read: reads the configuration of such a run's checkpoints.
    """
    last = config.out_dir / "last"
    recover_checkpoint(last)
    if not last.exists():
        if config.resume:
            print(f"nothing to resume in {config.out_dir}; starting", file=sys.stderr)
        return False
    if not config.resume:
        raise ClipcapError(f"{config.out_dir} already holds a run; go on with --resume, or choose another --out_dir")
    _, info = read(last)
    changed = config.differences(info.training)
    if changed:
        was = ", ".join(f"--{name} {info.training[name]}" for name in changed)
        raise ClipcapError(f"the run in {config.out_dir} was started with {was}; resume it with the same options")
    return True


def check_continues(config: TrainConfig, store: FeatureStore, model: CaptionModel, data_digest: str) -> None:
    """Raises ClipcapError unless features, captions and language model are those that the run was started with."""
    trained, info = read_config(config.out_dir / "last")
    started = info.fingerprint
    if started is not None and model.encoder_weights_before is not None:
        started = replace(started, weights=model.encoder_weights_before)
    check_fingerprints(started, store.fingerprint, str(config.data))
    if info.progress.get("data_digest", data_digest) != data_digest:
        raise ClipcapError(
            f"the run in {config.out_dir} was started on other videos or captions than {config.data} and "
            f"{', '.join(map(str, config.caption or []))} hold, or on another number of processes; resume it with those"
        )
    if not isinstance(trained, CaptionerConfig) or not trained.frozen_decoder:
        return
    if trained.language_model_digest != model.config.language_model_digest:
        raise ClipcapError(
            f"language model {config.lm!r} is not the one that the run in {config.out_dir} was started with; "
            "give that one with --lm"
        )


def read_records(config: TrainConfig, store: FeatureStore) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Records of the training and the validation split that have features; says what was left out."""
    assert config.caption is not None
    matched = match_features(read_annotations(config.caption, config.paragraphs), store.ids())
    if not matched.records:
        raise ClipcapError(
            f"no video of {', '.join(map(str, config.caption))} has features in {config.data}; check that ids agree, "
            f"e.g. {store.ids()[0]!r} there"
        )
    if matched.describe():
        print(matched.describe(), file=sys.stderr)
    training = [record for record in select(matched.records, config.train_split) if record.captions]
    if not training:
        raise ClipcapError(f"split {config.train_split!r} has features but no captions; nothing to train on")
    eval_split = normal_split(config.eval_split)
    validation = [record for record in matched.records if record.split == eval_split and record.captions]
    if not validation and config.eval_every:
        print(
            f"no captions in split {config.eval_split!r}: no validation, the best checkpoint is the last",
            file=sys.stderr,
        )
    return training, validation


def count_frames(config: TrainConfig, store: FeatureStore, training: Sequence[VideoRecord]) -> int:
    """Most frames of a video that the model has positions for."""
    shapes = [store.shape(record.video_id) for record in training]
    widths = {shape.dim for shape in shapes}
    if len(widths) > 1:
        raise ClipcapError(f"features in {config.data} have several widths: {', '.join(map(str, sorted(widths)))}")
    if config.is_rn and widths != {640}:
        raise ClipcapError(
            f"--is_rn means RN50x4's 640-wide features, but those in {config.data} are {widths.pop()} wide"
        )
    longest = max(shape.frames for shape in shapes)
    return min(longest, config.prefix_length_clip) if config.prefix_length_clip else longest


def _load_captioner(config: TrainConfig, run: Path, store: FeatureStore) -> CaptionModel:
    """The captioner of a finished run, for another to go on from. Raises ClipcapError if the features do not fit it."""
    checkpoint = find_checkpoint(run)
    model, info = load_checkpoint(checkpoint)
    check_fingerprints(info.fingerprint, store.fingerprint, str(config.data))
    return model


def build_model(
    config: TrainConfig, store: FeatureStore, training: Sequence[VideoRecord], max_frames: int, text_dim: int = 0
) -> CaptionModel:
    """The captioner that `config` asks for, as wide as the features; with init_from the trained one.

    text_dim: width of the text embeddings of a contrastive loss; 0 without one.
    """
    if config.init_from is not None:
        trained = _load_captioner(config, config.init_from, store)
        if isinstance(trained, PrefixCaptioner):
            if text_dim:
                trained.learn_to_retrieve(text_dim)
            for parameter in trained.retrieval_parameters():
                parameter.requires_grad_(text_dim > 0)
        return trained
    feature_dim = store.shape(training[0].video_id).dim
    build = build_recurrent if config.model == "lstm" else build_prefix
    model = build(config, store, training, feature_dim, max_frames)
    if isinstance(model, PrefixCaptioner) and text_dim:
        model.learn_to_retrieve(text_dim)
    model.check_length(max(config.max_caption_tokens, EVAL_ENTRY_LENGTH))
    return model


def build_recurrent(
    config: TrainConfig, store: FeatureStore, training: Sequence[VideoRecord], feature_dim: int, max_frames: int
) -> RecurrentCaptioner:
    """A recurrent captioner, with the encoder in front of it where that is trained along."""
    if config.tokenizer is None:
        captions = (caption for record in training for caption in record.captions)
        tokenizer = word_tokenizer(captions, config.min_count)
    else:
        tokenizer = subword_tokenizer(config.tokenizer)
    encoder = None
    if isinstance(store, FrameStore):
        encoder = TrainableEncoder(store.encoder, config.freeze_until, store.fingerprint.normalized)
    recurrent = RecurrentConfig(
        feature_dim=feature_dim,
        max_frames=max_frames,
        vocabulary_size=len(tokenizer),
        head_dim=None if config.train_encoder == "none" else config.head_width,
        cell=config.cell,
        attention=config.attention,
        width=config.rnn_width,
        layers=config.rnn_layers,
        word_width=config.word_width,
        tied=config.embeddings == "tied",
        dropout=config.dropout,
        encoder_weights=store.fingerprint.weights if isinstance(store, FrameStore) else None,
    )
    torch.manual_seed(config.seed)
    return RecurrentCaptioner(recurrent, tokenizer, encoder)


def build_prefix(
    config: TrainConfig, store: FeatureStore, training: Sequence[VideoRecord], feature_dim: int, max_frames: int
) -> PrefixCaptioner:
    """A prefix captioner with a fresh mapping network."""
    language_model, tokenizer = load_language_model(config.lm)
    embedding_dim = language_model.get_input_embeddings().weight.shape[1]
    mapping = MappingConfig(
        mapping_type=config.mapping_type,
        feature_dim=feature_dim,
        embedding_dim=embedding_dim,
        prefix_length=config.prefix_length,
        max_frames=max_frames,
        num_layers=config.num_layers,
        dropout=config.dropout,
        input_norm=not config.reference,
        temporal_positions=not config.reference,
        normalize_prefix=config.normalize_prefix,
        hidden_dim=max(1, embedding_dim // 2) if config.reference else None,
    )
    digest = digest_language_model(language_model)
    torch.manual_seed(config.seed)
    stop_text = STOP_TEXT if config.reference else None
    captioner = CaptionerConfig(mapping, config.lm, digest, config.only_prefix, stop_text, config.lora_rank)
    return PrefixCaptioner(captioner, language_model, tokenizer)


def prepare_language_model(model: CaptionModel, precision: str) -> None:
    """What is frozen of the language model is cast to the precision of the run once, not in every step."""
    if isinstance(model, PrefixCaptioner) and model.config.frozen_decoder:
        keep_in(model.language_model, precision, frozen_only=True)
