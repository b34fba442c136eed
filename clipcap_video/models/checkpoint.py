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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clipcap_video.encoders.weights import read_state_dict
from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import open_safetensors
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.language_model import (
    digest_language_model,
    language_model_from_config,
    load_language_model,
    load_tokenizer,
)
from clipcap_video.models.legacy import find_legacy
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix import CaptionerConfig, PrefixCaptioner
from clipcap_video.models.recurrent import RecurrentCaptioner, RecurrentConfig

CONFIG, WEIGHTS, TOKENIZER, LANGUAGE_MODEL = "config.json", "model.safetensors", "tokenizer", "language_model"
# Options of a run that name places on the machine that trained it.
PATHS = ("data", "caption", "out_dir", "init_from", "videos", "encoder_weights")
ENCODER_WEIGHTS = "encoder.safetensors"
CONSENSUS = "consensus.safetensors"

# kind of model -> what reads its configuration
CONFIGS: dict[str, Callable[[dict[str, Any]], CaptionerConfig | RecurrentConfig]] = {
    PrefixCaptioner.kind: lambda raw: CaptionerConfig(**{**raw, "mapping": MappingConfig(**raw["mapping"])}),
    RecurrentCaptioner.kind: lambda raw: RecurrentConfig(**raw),
}


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
        model.tokenizer.save_pretrained(partial / TOKENIZER)
        if isinstance(model, PrefixCaptioner) and not model.config.frozen_decoder:
            model.language_model.config.save_pretrained(partial / LANGUAGE_MODEL)
        if isinstance(model, RecurrentCaptioner) and model.trained_encoder is not None:
            _write_weights(partial / ENCODER_WEIGHTS, model.trained_encoder.trained_weights(), dtype)
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
        "format": "clipcap-video",
        "version": 1,
        "model": kind,
        **model_config,
        "features": None if info.fingerprint is None else asdict(info.fingerprint),
        "training": info.training,
        "progress": info.progress,
    }
    with _replaced(directory) as partial:
        _write_weights(partial / WEIGHTS, weights, dtype)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if extra is not None:
            extra(partial)


def _write_weights(file: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    from safetensors.torch import save

    # `save_file` would make the file readable by its owner alone, whatever the umask.
    file.write_bytes(save({name: tensor.to(dtype) for name, tensor in weights.items()}))


def pack_checkpoint(checkpoint: Path, out: Path) -> int:
    """Writes `checkpoint` to `out` in float16 and without the paths of its training run; returns its size in bytes."""
    model, info = load_checkpoint(checkpoint)
    model.config = shareable(model.config, info)
    save_checkpoint(out, model, info, dtype=torch.float16, extra=keep_parts(checkpoint, torch.float16))
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def keep_parts(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    """Writes what `checkpoint` has beside the captioner into another one: encoder layers that were trained along, and
    a consensus network."""
    trained = checkpoint / ENCODER_WEIGHTS
    layers = read_state_dict(trained) if trained.exists() else None
    keep_ranker = keep_consensus(checkpoint)

    def write(partial: Path) -> None:
        if layers is not None:
            _write_weights(partial / ENCODER_WEIGHTS, layers, dtype)
        keep_ranker(partial)

    return write


def keep_consensus(checkpoint: Path) -> Callable[[Path], None]:
    """Writes the consensus network that `checkpoint` has, if any, into another, or into what takes its place."""
    file = checkpoint / CONSENSUS
    ranker = file.read_bytes() if file.exists() else None

    def write(partial: Path) -> None:
        if ranker is not None:
            (partial / CONSENSUS).write_bytes(ranker)

    return write


def shareable(config: Any, info: CheckpointInfo) -> Any:
    """A model's configuration without paths of the machine that trained it; `info` loses those of its options."""
    info.training = {name: value for name, value in info.training.items() if name not in PATHS}
    if not isinstance(config, CaptionerConfig) or config.frozen_decoder:
        return config
    # Only a name from here on: the weights are in the checkpoint.
    info.training["lm"] = Path(config.language_model).name
    return replace(config, language_model=info.training["lm"])


def trained_weights(model: CaptionModel) -> dict[str, Tensor]:
    """The weights that belong in `model.safetensors`, on the CPU, each once."""
    skipped = set(model.stays_out())
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
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial")
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(directory, old)
        os.replace(partial, directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
        raise ClipcapError(f"no model directory at {model_dir}; train one with train_vtt.py --out_dir {model_dir}")
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
    found = sorted(path for path in model_dir.glob(name) if (path / CONFIG).is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ClipcapError(f"{model_dir} has {names}; choose one with --prefix")
    legacy = None if found else find_legacy(model_dir, prefix, epoch)
    if not found and legacy is None:
        kept = sorted(path.name for path in model_dir.glob("*-[0-9][0-9][0-9]"))
        have = f"; there are {', '.join(kept)}" if kept else ""
        raise ClipcapError(
            f"no checkpoint {model_dir / name}{have}; choose another --epoch, or leave it out for the best"
        )
    return found[0] if found else legacy or model_dir


Config = TypeVar("Config")

# What a checkpoint of each kind is, and the commands that take it.
KINDS = {
    **dict.fromkeys(CONFIGS, "a captioner, for inference_vtt.py"),
    "retrieval": "a retrieval model, for clipcap-video search and evaluate-retrieval",
}


def read_config(checkpoint: Path) -> tuple[CaptionerConfig | RecurrentConfig, CheckpointInfo]:
    """The configuration of a captioner's checkpoint directory, without its weights."""

    def captioner(raw: dict[str, Any]) -> CaptionerConfig | RecurrentConfig:
        return CONFIGS[raw.get("model", PrefixCaptioner.kind)](raw["captioner"])

    return parse_config(checkpoint, tuple(CONFIGS), captioner)


def parse_config(
    checkpoint: Path, kinds: Sequence[str], parse: Callable[[dict[str, Any]], Config]
) -> tuple[Config, CheckpointInfo]:
    """What `parse` makes of a checkpoint's config.json, and the part that all kinds of model share.

    Raises ClipcapError when the file is missing or damaged, or of a model of none of these kinds.
    """
    file = checkpoint / CONFIG
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        found = raw.get("model", kinds[0])
        if found not in kinds and found in KINDS:
            raise ClipcapError(f"{checkpoint} is {KINDS[found]}; expected {KINDS[kinds[0]]}")
        if found not in kinds:
            raise ClipcapError(
                f"{file} is of a {found!r} model, which this version does not know; use a newer version, or one of "
                f"{', '.join(kinds)}"
            )
        config = parse(raw)
        features = raw["features"]
        fingerprint = None if features is None else Fingerprint.from_json(json.dumps(features))
        info = CheckpointInfo(fingerprint, raw.get("training", {}), raw.get("progress", {}))
    except OSError as error:
        raise ClipcapError(f"cannot read {file} ({error.strerror}); the checkpoint is incomplete") from None
    except KeyError as error:
        raise ClipcapError(f"{file} lacks the field {error}; the checkpoint is damaged or of another program") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ClipcapError(f"{file} is damaged ({error}); use another checkpoint") from None
    return config, info


def load_checkpoint(checkpoint: Path, language_model: str | None = None) -> tuple[CaptionModel, CheckpointInfo]:
    """The captioner of a checkpoint directory, on the CPU in eval mode, and what is known about it.

    language_model: where to find the frozen language model, if not under the name that the checkpoint has.
    Raises ClipcapError when a part is missing, damaged or does not fit.
    """
    config, info = read_config(checkpoint)
    model: CaptionModel
    if isinstance(config, RecurrentConfig):
        if language_model is not None:
            raise ClipcapError(f"{checkpoint} has no language model, for it is a recurrent captioner; leave out --lm")
        model = RecurrentCaptioner(config, load_tokenizer(checkpoint / TOKENIZER))
    else:
        model = _prefix_captioner(config, checkpoint, language_model)
    load_weights(model, checkpoint / WEIGHTS)
    return model.eval(), info


def _prefix_captioner(config: CaptionerConfig, checkpoint: Path, language_model: str | None) -> PrefixCaptioner:
    if config.frozen_decoder:
        decoder, tokenizer = load_language_model(language_model or config.language_model)
        if digest_language_model(decoder) != config.language_model_digest:
            raise ClipcapError(
                f"language model {language_model or config.language_model!r} is not the one that {checkpoint} was "
                f"trained with ({config.language_model!r}, {config.language_model_digest}); give that one with --lm"
            )
    else:
        if language_model is not None:
            raise ClipcapError(f"{checkpoint} carries its own fine-tuned language model; leave out --lm")
        folder = checkpoint / LANGUAGE_MODEL
        if not (folder / CONFIG).is_file():
            raise ClipcapError(f"{checkpoint} lacks {LANGUAGE_MODEL}/{CONFIG}; the checkpoint is incomplete")
        decoder, tokenizer = language_model_from_config(folder), load_tokenizer(checkpoint / TOKENIZER)
    return PrefixCaptioner(config, decoder, tokenizer)


def load_weights(model: CaptionModel, file: Path) -> None:
    """Fills the model with the weights of a checkpoint; every tensor must be there and fit."""
    fill(model, trained_weights(model), read_weights(file), file)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's weights."""
    with open_safetensors(file, "the weights", "the checkpoint is incomplete") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)


def fill(model: nn.Module, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], file: Path) -> None:
    """Puts `weights`, read from `file`, into `model`; they must have the names and shapes of `wanted`."""
    missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    wrong = [name for name in sorted(wanted.keys() & weights.keys()) if wanted[name].shape != weights[name].shape]
    for problem, names in (
        ("lacks", missing),
        ("has an unknown", unknown),
        ("has the wrong shape for", wrong),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ClipcapError(f"{file} {problem} tensor {names[0]}{more}; the checkpoint is damaged")
    model.load_state_dict(weights, strict=False)
