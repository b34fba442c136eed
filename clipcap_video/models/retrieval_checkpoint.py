"""Checkpoint directories of retrieval models: `config.json` and `model.safetensors`, as those of captioners.

A frozen text encoder is named in the config and found again by that name. A CLIP that was trained lies in the weights
as `clip.network.*`, in OpenAI's names, so that `extract_features.py --encoder DIR/model.safetensors` makes features
with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import (
    WEIGHTS,
    CheckpointInfo,
    fill,
    find_checkpoint,
    parse_config,
    read_weights,
    write_checkpoint,
)
from clipcap_video.models.retrieval import RetrievalConfig, RetrievalModel
from clipcap_video.models.video_clip import VideoClip

_CLIP = "clip.network."


def save_retrieval(
    directory: Path, model: RetrievalModel, info: CheckpointInfo, extra: Callable[[Path], None] | None = None
) -> None:
    """Writes a whole checkpoint, replacing what was there in one step. extra: as in save_checkpoint."""
    write_checkpoint(
        directory, "retrieval", {"retrieval": asdict(model.config)}, retrieval_weights(model), info, extra=extra
    )


def retrieval_weights(model: RetrievalModel) -> dict[str, Tensor]:
    """The weights that belong in a checkpoint, on the CPU, each once."""
    # Where there is a CLIP, the scale is its own.
    twice = set() if model.clip is None else {"head.logit_scale"}
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items() if name not in twice
    }


def read_retrieval_config(checkpoint: Path) -> tuple[RetrievalConfig, CheckpointInfo]:
    """The configuration of a checkpoint directory, without its weights."""

    def retrieval(raw: dict[str, Any]) -> RetrievalConfig:
        return RetrievalConfig(**raw["retrieval"])

    return parse_config(checkpoint, ("retrieval",), retrieval)


def load_retrieval(folder: Path) -> tuple[RetrievalModel, CheckpointInfo]:
    """The model of a run (its best checkpoint) or of a checkpoint, on the CPU in eval mode.

    Raises ClipcapError when a part is missing, damaged or does not fit.
    """
    checkpoint = find_checkpoint(folder)
    if checkpoint.is_file():
        raise ClipcapError(f"{folder} holds checkpoints of ClipCap, which do not retrieve; give a retrieval model")
    config, info = read_retrieval_config(checkpoint)
    file = checkpoint / WEIGHTS
    weights = read_weights(file)
    clip = None
    if config.text_encoder is None:
        own = {name.removeprefix(_CLIP): tensor for name, tensor in weights.items() if name.startswith(_CLIP)}
        clip = VideoClip(own, file, config.linear_patch)
    model = RetrievalModel(config, clip)
    fill(model, retrieval_weights(model), weights, file)
    return model.eval(), info


def load_retrieval_weights(model: RetrievalModel, file: Path) -> None:
    """Fills the model with the weights in `file`; every tensor must be there and fit."""
    fill(model, retrieval_weights(model), read_weights(file), file)
