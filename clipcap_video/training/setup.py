"""What a training run needs before its first step: records, sizes read from the data, and the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from clipcap_video.datasets.records import VideoRecord, match_features, normal_split, read_annotations, select
from clipcap_video.errors import ClipcapError
from clipcap_video.features import FeatureStore, check_fingerprints
from clipcap_video.models.captioner import CaptionerConfig, PrefixCaptioner
from clipcap_video.models.checkpoint import find_checkpoint, load_checkpoint, read_config, recover_checkpoint
from clipcap_video.models.language_model import digest_language_model, keep_in, load_language_model
from clipcap_video.models.legacy import STOP_TEXT
from clipcap_video.models.mapping import MappingConfig
from clipcap_video.training.config import TrainConfig

EVAL_ENTRY_LENGTH = 30


def has_run(config: TrainConfig) -> bool:
    """Whether config.out_dir holds a run to resume. Raises ClipcapError for one that the options do not continue."""
    last = config.out_dir / "last"
    recover_checkpoint(last)
    if not last.exists():
        if config.resume:
            print(f"nothing to resume in {config.out_dir}; starting", file=sys.stderr)
        return False
    if not config.resume:
        raise ClipcapError(f"{config.out_dir} already holds a run; go on with --resume, or choose another --out_dir")
    _, info = read_config(last)
    changed = config.differences(info.training)
    if changed:
        was = ", ".join(f"--{name} {info.training[name]}" for name in changed)
        raise ClipcapError(f"the run in {config.out_dir} was started with {was}; resume it with the same options")
    return True


def check_continues(config: TrainConfig, store: FeatureStore, model: PrefixCaptioner, data_digest: str) -> None:
    """Raises ClipcapError unless features, captions and language model are those that the run was started with."""
    trained, info = read_config(config.out_dir / "last")
    check_fingerprints(info.fingerprint, store.fingerprint, str(config.data))
    if info.progress.get("data_digest", data_digest) != data_digest:
        raise ClipcapError(
            f"the run in {config.out_dir} was started on other videos or captions than {config.data} and "
            f"{', '.join(map(str, config.caption or []))} hold, or on another number of processes; resume it with those"
        )
    if trained.frozen_decoder and trained.language_model_digest != model.config.language_model_digest:
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


def _load_captioner(config: TrainConfig, run: Path, store: FeatureStore) -> PrefixCaptioner:
    """The captioner of a finished run, for another to go on from. Raises ClipcapError if the features do not fit it."""
    checkpoint = find_checkpoint(run)
    model, info = load_checkpoint(checkpoint)
    check_fingerprints(info.fingerprint, store.fingerprint, str(config.data))
    return model


def build_model(
    config: TrainConfig, store: FeatureStore, training: Sequence[VideoRecord], max_frames: int
) -> PrefixCaptioner:
    """The captioner that `config` asks for, as wide as the features; with init_from the trained one."""
    if config.init_from is not None:
        return _load_captioner(config, config.init_from, store)
    language_model, tokenizer = load_language_model(config.lm)
    embedding_dim = language_model.get_input_embeddings().weight.shape[1]
    mapping = MappingConfig(
        mapping_type=config.mapping_type,
        feature_dim=store.shape(training[0].video_id).dim,
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
    model = PrefixCaptioner(captioner, language_model, tokenizer)
    model.check_length(max(config.max_caption_tokens, EVAL_ENTRY_LENGTH))
    return model


def prepare_language_model(model: PrefixCaptioner, precision: str) -> None:
    """What is frozen of the language model is cast to the precision of the run once, not in every step."""
    if model.config.frozen_decoder:
        keep_in(model.language_model, precision, frozen_only=True)
