"""Checkpoint directories: `config.json`, `model.safetensors` and `tokenizer/`, all that rebuilds a captioner.

A fine-tuned language model's weights lie in `model.safetensors` and its architecture in `language_model/`; a frozen
one is named in the config and found again by that name, and low-rank adapters to it lie in `model.safetensors`. An
encoder is found by its name too; layers of it that were trained along lie in `encoder.safetensors`. Directories appear
under their names only when whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clipcap_video.encoders.weights import read_state_dict, write_weights
from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import about_to_appear, open_safetensors, read_json, reading, writing
from clipcap_video.models.base import (
    CONFIG,
    ENCODER_WEIGHTS,
    LANGUAGE_MODEL,
    STATE,
    TOKENIZER,
    WEIGHTS,
    CaptionModel,
)
from clipcap_video.models.legacy import find_legacy
from clipcap_video.models.prompt import MEMORY, WORDS, read_prompter
from clipcap_video.models.registry import CAPTIONERS
from clipcap_video.models.sizes import check_outline, sizes_of
from clipcap_video.runs.field_types import check_types
from clipcap_video.runs.record import RUN_FILE

FORMAT, VERSION = "clipcap-video", 1
# Options of a run that name places on the machine that trained it.
PATHS = ("data", "caption", "out_dir", "init_from", "videos", "encoder_weights")
CONSENSUS = "consensus.safetensors"
OBJECTIVE_WEIGHTS = "objective.safetensors"
# Those of the contrastive objective lay among the captioner's in version 0.1.
FORMER_OBJECTIVE = ("logit_scale", "to_text.weight", "to_text.bias")


@dataclass
class CheckpointInfo:
    """What a checkpoint says beside the model itself.

    fingerprint: of the features it was trained on; None where their store has none.
    training: the options of the run; progress: epoch, step and validation scores.
    """

    fingerprint: Fingerprint | None = None
    training: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    directory: Path,
    model: CaptionModel,
    info: CheckpointInfo,
    dtype: torch.dtype = torch.float32,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Writes a whole checkpoint, replacing what was there in one step.

    dtype: of the stored weights. extra: writes further files into the directory before it appears.
    """

    def more(partial: Path) -> None:
        model.save(partial, dtype)
        if extra is not None:
            extra(partial)

    described = {"captioner": asdict(model.config)}
    write_checkpoint(directory, model.kind, described, trained_weights(model), info, dtype, more)


def write_checkpoint(
    directory: Path,
    kind: str,
    model_config: dict[str, Any],
    weights: dict[str, Tensor],
    info: CheckpointInfo,
    dtype: torch.dtype = torch.float32,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """The part of a save that all kinds of model share. kind: goes into the config as `model`."""
    config = {
        "format": FORMAT,
        "version": VERSION,
        "model": kind,
        **model_config,
        "features": None if info.fingerprint is None else asdict(info.fingerprint),
        "training": info.training,
        "progress": info.progress,
    }
    check_finite(weights, f"the model that was to be saved to {directory}", "lower --lr, and go on from the last one")
    with _replaced(directory) as partial:
        write_weights(partial / WEIGHTS, weights, dtype)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if extra is not None:
            extra(partial)


def pack_checkpoint(checkpoint: Path, out: Path) -> int:
    """Writes `checkpoint` to `out` in float16 and without the paths of its training run; returns its size in bytes."""
    model, info = load_checkpoint(checkpoint)
    model.config = shareable(model.config, info)
    save_checkpoint(out, model, info, dtype=torch.float16, extra=keep_parts(checkpoint, torch.float16))
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def keep_parts(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    """Writes what `checkpoint` has beside the captioner into another one: encoder layers that were trained along, an
    objective's own weights, and a consensus network."""
    trained = checkpoint / ENCODER_WEIGHTS
    layers = read_state_dict(trained) if trained.exists() else None
    beside = {ENCODER_WEIGHTS: layers, OBJECTIVE_WEIGHTS: objective_weights(checkpoint)}
    keep_ranker = keep_consensus(checkpoint)

    def write(partial: Path) -> None:
        for name, weights in beside.items():
            if weights:
                write_weights(partial / name, weights, dtype)
        keep_ranker(partial)

    return write


def keep_consensus(checkpoint: Path) -> Callable[[Path], None]:
    """Writes the consensus network that `checkpoint` has, if any, into another, or into what takes its place."""
    file = checkpoint / CONSENSUS
    with reading(file, "the consensus network", "make it anew with clipcap-video train-consensus"):
        ranker = file.read_bytes() if file.exists() else None

    def write(partial: Path) -> None:
        if ranker is not None:
            (partial / CONSENSUS).write_bytes(ranker)

    return write


def shareable(config: Any, info: CheckpointInfo) -> Any:
    """A model's configuration without paths of the machine that trained it; `info` loses those of its options."""
    info.training = {name: value for name, value in info.training.items() if name not in PATHS}
    return config.shareable(info.training)


def trained_weights(model: CaptionModel) -> dict[str, Tensor]:
    """The weights that belong in `model.safetensors`, on the CPU, each once."""
    skipped = set(model.omitted_weights())
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items() if name not in skipped
    }


def check_replaceable(directory: Path) -> None:
    """Raises ClipcapError when there is something else than a checkpoint, which a save would destroy."""
    if directory.exists() and not (directory / CONFIG).is_file() and (directory.is_file() or any(directory.iterdir())):
        raise ClipcapError(f"{directory} exists and is no checkpoint, so it is not replaced; choose another folder")


@contextmanager
def _replaced(directory: Path) -> Iterator[Path]:
    """A fresh directory that takes the place of `directory` when the block ends without an error."""
    recover_checkpoint(directory)
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial")
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with writing(directory):
            yield partial
            if directory.exists():
                _keep_strangers(directory, partial)
            about_to_appear(directory, partial)
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(directory, old)
        os.replace(partial, directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _keep_strangers(directory: Path, partial: Path) -> None:
    """Copies what others put into a checkpoint into the one that takes its place."""
    beside = {ENCODER_WEIGHTS, CONSENSUS, OBJECTIVE_WEIGHTS, WORDS, MEMORY, STATE, RUN_FILE}
    own = {CONFIG, WEIGHTS, TOKENIZER, LANGUAGE_MODEL, *beside}
    for file in directory.iterdir():
        if file.name not in own and not (partial / file.name).exists():
            (shutil.copytree if file.is_dir() else shutil.copy2)(file, partial / file.name)


def recover_checkpoint(directory: Path) -> None:
    """Puts back the previous checkpoint if a process died between the two renames of a save."""
    old = directory.with_name(f".{directory.name}.old")
    if old.exists() and not directory.exists():
        os.replace(old, directory)


def find_checkpoint(model_dir: Path, prefix: str | None = None, epoch: int | None = None) -> Path:
    """The checkpoint meant by `--model_dir --prefix --epoch`: a directory, or a `.pt` of the ClipCap programs.

    Without an epoch it is model_dir itself, else the best (else the last) of a run in it, else the last of those
    programs in it. prefix: needed only where checkpoints of several names were kept.
    Raises ClipcapError when there is none, naming what there is.
    """
    if model_dir.is_file() and model_dir.suffix == ".pt":
        return model_dir
    if not model_dir.is_dir():
        raise ClipcapError(f"no model directory at {model_dir}; train one with train_vtt.py --out {model_dir}")
    if epoch is not None:
        return _checkpoint_of_epoch(model_dir, prefix, epoch)
    if (model_dir / CONFIG).is_file():
        return model_dir
    for name in ("best", "last"):
        recover_checkpoint(model_dir / name)
        if (model_dir / name / CONFIG).is_file():
            return model_dir / name
    legacy = find_legacy(model_dir, prefix)
    if legacy is None:
        raise ClipcapError(f"{model_dir} holds no {CONFIG}; it is not a checkpoint, train one with train_vtt.py")
    return legacy


def _checkpoint_of_epoch(model_dir: Path, prefix: str | None, epoch: int) -> Path:
    name = f"{prefix or '*'}-{epoch:03d}"
    matches = sorted(path for path in model_dir.glob(name) if (path / CONFIG).is_file())
    if len(matches) > 1:
        names = ", ".join(path.name for path in matches)
        raise ClipcapError(f"{model_dir} has {names}; choose one with --prefix")
    legacy = None if matches else find_legacy(model_dir, prefix, epoch)
    if not matches and legacy is None:
        kept = sorted(path.name for path in model_dir.glob("*-[0-9][0-9][0-9]"))
        have = f"; there are {', '.join(kept)}" if kept else ""
        raise ClipcapError(
            f"no checkpoint {model_dir / name}{have}; choose another --epoch, or leave it out for the best"
        )
    return matches[0] if matches else legacy or model_dir


Config = TypeVar("Config")

# What a checkpoint of each kind is, and the commands that take it.
CAPTIONER = "a captioner, for inference_vtt.py"
OTHERS = {"retrieval": "a retrieval model, for clipcap-video search and evaluate-retrieval"}


def read_config(checkpoint: Path) -> tuple[Any, CheckpointInfo]:
    """The configuration of a captioner's checkpoint directory, a ModelConfig, without its weights."""
    (_, config), info = _read_kind(checkpoint)
    return config, info


def _read_kind(checkpoint: Path) -> tuple[tuple[type[CaptionModel], Any], CheckpointInfo]:
    """The class of a checkpoint's captioner with its configuration."""

    def captioner(raw: dict[str, Any]) -> tuple[type[CaptionModel], Any]:
        kind = CAPTIONERS[raw.get("model", "prefix")].captioner_class()
        config = kind.read_config(raw["captioner"])
        if is_dataclass(config):
            check_types(config)
        return kind, config

    return parse_config(checkpoint, tuple(CAPTIONERS), captioner)


def parse_config(
    checkpoint: Path, kinds: Sequence[str], parse: Callable[[dict[str, Any]], Config]
) -> tuple[Config, CheckpointInfo]:
    """What `parse` makes of a checkpoint's config.json, and the part that all kinds of model share.

    Raises ClipcapError when the file is missing or damaged, or of a model of none of these kinds.
    """
    file = checkpoint / CONFIG
    remedy = "the checkpoint is incomplete, or of another program; use another one"
    raw = read_json(file, "the configuration", remedy)
    with reading(file, "the configuration", remedy):
        if (raw.get("format", FORMAT), raw.get("version", VERSION)) != (FORMAT, VERSION):
            raise ClipcapError(
                f"{file} is of the format {raw.get('format')!r}, version {raw.get('version')!r}, and this program "
                f"reads {FORMAT!r}, version {VERSION}; use a newer one"
            )
        kind = raw.get("model", kinds[0])
        known = {**dict.fromkeys(CAPTIONERS, CAPTIONER), **OTHERS}
        if kind not in kinds and kind in known:
            raise ClipcapError(f"{checkpoint} is {known[kind]}; expected {known[kinds[0]]}")
        if kind not in kinds:
            raise ClipcapError(
                f"{file} is of a {kind!r} model, which this version does not know; use a newer version, or one of "
                f"{', '.join(kinds)}"
            )
        config = parse(raw)
        features = raw["features"]
        fingerprint = None if features is None else Fingerprint.from_json(json.dumps(features))
        return config, CheckpointInfo(fingerprint, dict(raw.get("training", {})), dict(raw.get("progress", {})))


def load_checkpoint(checkpoint: Path, language_model: str | None = None) -> tuple[CaptionModel, CheckpointInfo]:
    """The captioner of a checkpoint directory, on the CPU in eval mode, and what is known about it.

    language_model: where to find the frozen language model, if not under the name that the checkpoint has.
    Raises ClipcapError when a part is missing, damaged or does not fit.
    """
    (kind, config), info = _read_kind(checkpoint)
    check_outline(lambda: kind.outline(config, checkpoint), sizes_of(config), checkpoint / WEIGHTS)
    model = kind.load(config, checkpoint, language_model)
    load_weights(model, checkpoint / WEIGHTS)
    return model.eval(), info


def check_loads(checkpoint: Path) -> None:
    """Raises ClipcapError unless a captioner's checkpoint can be loaded; a model is not fetched for that."""
    (kind, config), _ = _read_kind(checkpoint)
    outside = None if config.outside_model is None else Path(config.outside_model[0])
    if outside is None or outside.exists():
        load_checkpoint(checkpoint)
    elif outside.is_absolute():
        raise ClipcapError(f"{checkpoint} needs the language model {outside}, which is gone; give its place with --lm")
    else:
        check_outline(lambda: kind.outline(config, checkpoint), sizes_of(config), checkpoint / WEIGHTS)
        read_weights(checkpoint / WEIGHTS)
        if getattr(config, "prompt_length", 0):
            read_prompter(checkpoint, config.feature_dim, config.memory)


def load_weights(model: CaptionModel, file: Path) -> None:
    """Fills the model with the weights of a checkpoint; every tensor must be there and fit."""
    wanted, weights = trained_weights(model), read_weights(file)
    fill(model, wanted, {name: tensor for name, tensor in weights.items() if name not in FORMER_OBJECTIVE}, file)


def objective_weights(checkpoint: Path) -> dict[str, Tensor]:
    """What an objective trained beside the captioner of a checkpoint; {} where there is no such thing."""
    file = checkpoint / OBJECTIVE_WEIGHTS
    if file.is_file():
        return read_weights(file)
    former = checkpoint / WEIGHTS
    names = json.loads((checkpoint / CONFIG).read_text(encoding="utf-8"))["captioner"] if former.is_file() else {}
    if not names.get("text_dim"):
        return {}
    return {name: tensor for name, tensor in read_weights(former).items() if name in FORMER_OBJECTIVE}


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's weights."""
    with open_safetensors(file, "the weights", "the checkpoint is incomplete") as opened:
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
    check_finite(weights, str(file), "use another checkpoint")
    return weights


def check_finite(weights: Mapping[str, Tensor], where: str, remedy: str) -> None:
    """Raises ClipcapError for weights that are no finite numbers, with which all captions are wrong."""
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise ClipcapError(f"{where} has weights in {name} that are no finite numbers; {remedy}")


def fill(model: nn.Module, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], file: Path) -> None:
    """Puts `weights`, read from `file`, into `model`; they must have the names and shapes of `wanted`."""
    missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    wrong = [name for name in sorted(wanted.keys() & weights.keys()) if wanted[name].shape != weights[name].shape]
    kinds = [name for name in wanted if name in weights and wanted[name].dtype.is_floating_point]
    other = sorted(name for name in kinds if not weights[name].dtype.is_floating_point)
    for problem, names in (
        ("lacks", missing),
        ("has an unknown", unknown),
        ("has the wrong shape for", wrong),
        ("has no floating-point numbers in", other),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ClipcapError(f"{file} {problem} tensor {names[0]}{more}; the checkpoint is damaged")
    model.load_state_dict(weights, strict=False)
