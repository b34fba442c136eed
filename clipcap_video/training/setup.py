"""What a training run needs before its first step: records, sizes read from the data, and the model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import annotated, match_features, training_and_validation, with_captions
from clipcap_video.datasets.records import VideoRecord, normal_split, select
from clipcap_video.encoders.trainable import TrainableEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.fingerprint import check_fingerprints
from clipcap_video.models.base import CaptionModel, TrainingFacts
from clipcap_video.models.checkpoint import (
    CheckpointInfo,
    find_checkpoint,
    load_checkpoint,
    read_config,
    recover_checkpoint,
)
from clipcap_video.runs.places import check_writable
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import LONGEST_CAPTION
from clipcap_video.training.frames import FrameStore

# Stands in the folder of a run until its first `last` does.
FIRST_EPOCH = ".first_epoch"


def has_run(config: Any, read: Callable[[Path], tuple[Any, CheckpointInfo]] = read_config) -> bool:
    """Whether config.out_dir holds a run to resume. Raises ClipcapError for one that the options do not continue.

    config: the options of a run, with out_dir and resume. read: reads the configuration of such a run's checkpoints.
    """
    last = config.out_dir / "last"
    check_writable("--out", config.out_dir)
    recover_checkpoint(last)
    if not last.exists():
        if (config.out_dir / "best").exists() and not (config.out_dir / FIRST_EPOCH).exists():
            raise ClipcapError(
                f"{last} is missing, from which the run would resume, and {config.out_dir / 'best'} would be lost in a "
                "new one; start from that with --init_from, or choose another --out"
            )
        if config.resume:
            print(f"nothing to resume in {config.out_dir}; starting", file=sys.stderr)
        return False
    if not config.resume:
        raise ClipcapError(f"{config.out_dir} already holds a run; continue it with --resume, or choose another --out")
    _, info = read(last)
    changed = config.differences(info.training)
    if changed:
        was = ", ".join(f"--{name} {info.training.get(name)}" for name in changed)
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
    outside = [config.outside_model and config.outside_model[1] for config in (trained, model.config)]
    if outside[0] != outside[1]:
        raise ClipcapError(
            f"language model {config.lm!r} is not the one that the run in {config.out_dir} was started with; "
            "give that one with --lm"
        )


def read_records(config: TrainConfig, store: FeatureStore) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Records of the training and the validation split that have features; says what was left out.

    With `--text_only`, captions are trained on whether their video has features or not.
    """
    assert config.caption is not None
    if config.text_only:
        records = read_annotations(config.caption, config.paragraphs)
        training = with_captions(select(records, config.train_split))
        seen = with_captions([one for one in records if one.split == normal_split(config.eval_split)])
        validation = match_features(seen, store.ids()).records
    else:
        records = annotated(config.caption, store.ids(), str(config.data), config.paragraphs)
        training, validation = training_and_validation(records, config.train_split, config.eval_split)
    if getattr(config.model_options, "origin_token", False):  # captions are written as those of the first file
        if all(record.origin for record in training):
            raise ClipcapError(
                f"{config.caption[0]}, whose captions --origin_token writes like, has no training videos; name another "
                "file first"
            )
        validation = [record for record in validation if record.origin == 0]
    if not validation and config.eval_every:
        print(
            f"no captions in split {config.eval_split!r}: no validation, the best checkpoint is the last",
            file=sys.stderr,
        )
    return training, validation


def count_frames(config: TrainConfig, store: FeatureStore, video_ids: Sequence[str]) -> int:
    """Most frames of a video that the model has positions for."""
    shapes = [store.shape(video_id) for video_id in video_ids]
    widths = {shape.dim for shape in shapes}
    if len(widths) > 1:
        raise ClipcapError(f"features in {config.data} have several widths: {', '.join(map(str, sorted(widths)))}")
    if config.is_rn and widths != {640}:
        raise ClipcapError(
            f"--is_rn means RN50x4's 640-wide features, but those in {config.data} are {widths.pop()} wide"
        )
    longest = max(shape.frames for shape in shapes)
    return min(longest, config.prefix_length_clip) if config.prefix_length_clip else longest


@dataclass(frozen=True)
class CaptionsOf:
    """All captions of some records, one after the other, whenever they are asked for."""

    records: Sequence[VideoRecord]

    def __iter__(self) -> Iterator[str]:
        return (caption for record in self.records for caption in record.captions)


def build_model(
    config: TrainConfig, store: FeatureStore, training: Sequence[VideoRecord], max_frames: int
) -> CaptionModel:
    """The captioner that `config` asks for, as wide as the features; with init_from the trained one.

    Raises ClipcapError if the features do not fit the trained one.
    """
    if config.init_from is not None:
        trained, info = load_checkpoint(find_checkpoint(config.init_from))
        check_fingerprints(info.fingerprint, store.fingerprint, str(config.data))
        trained.extend(config)
        trained.check_length(max(config.max_caption_tokens, LONGEST_CAPTION))
        return trained
    origins = len(config.caption or [])
    facts = TrainingFacts(store.shape(training[0].video_id).dim, max_frames, CaptionsOf(training), origins)
    if isinstance(store, FrameStore):
        encoder = TrainableEncoder(store.encoder, config.freeze_until, store.fingerprint.normalized)
        facts = replace(facts, encoder=encoder, encoder_weights=store.fingerprint.weights)
    model = config.model_options.captioner_class().build(config, facts)
    model.check_length(max(config.max_caption_tokens, LONGEST_CAPTION))
    return model
