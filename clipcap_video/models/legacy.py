"""Checkpoints of the ClipCap programs: `<prefix>-<epoch>.pt`, a state dict of `gpt.*` and `clip_project.*`.

They are those of image ClipCap (Mokady et al., arXiv 2111.09734) and of its MSR-VTT version. Neither says what made it;
most follows from names and shapes, and the rest is chosen by `LegacyChoices`. All of their mapping networks are
configurations of ours:

* `MLP` (D, E*K/2, E*K): `mlp` with K tokens a frame. One token is the MSR-VTT program's, of each of its frames; more
  are image ClipCap's, whose K is the prefix length.
* `TransformerMapper`: `transformer` with K tokens a frame, 1 in the MSR-VTT program and clip_length in image ClipCap.
* `CrossTransformerMapper` of the MSR-VTT program: `cross`. Its names and shapes are those of the transformer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from clipcap_video.errors import ClipcapError
from clipcap_video.files import reading
from clipcap_video.models.language_model import digest_language_model, load_language_model
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix import STOP_TEXT, PrefixCaptioner
from clipcap_video.models.prefix_config import CaptionerConfig

FRAMES = 28  # of each video, in the MSR-VTT program's features

# Masks that old releases of transformers kept among GPT-2's weights.
_MASKS = re.compile(r"gpt\.transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)")
_LAYER_PARTS = {"attn": "attention", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
_OUTSIDE_LAYERS = {"linear": "frames.linear", "model.0": "frames.linear", "model.2": "project"}


@dataclass(frozen=True)
class LegacyChoices:
    """What a state dict does not tell.

    cross: the prefix constants attend to the frames (`--cross`). normalize_prefix: features are divided by their norm.
    frames: most frames of a video; None is 28. prefix_length: of the MSR-VTT program's perceptron, which makes a token
    of each frame; None is `frames`.
    """

    cross: bool = False
    normalize_prefix: bool = False
    frames: int | None = None
    prefix_length: int | None = None


@dataclass
class LegacyReport:
    """What became of each key, old name -> new name or reason for dropping it, and what was inferred, in words."""

    mapped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    inferred: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line for each key and each choice."""
        return [
            *(f"mapped   {old} -> {new}" for old, new in self.mapped.items()),
            *(f"dropped  {old}: {reason}" for old, reason in self.dropped.items()),
            *(f"inferred {choice}" for choice in self.inferred),
        ]


def find_legacy(model_dir: Path, prefix: str | None = None, epoch: int | None = None) -> Path | None:
    """The ClipCap program's checkpoint meant by `--model_dir --prefix --epoch`, or None where the folder has none.

    model_dir: the folder, or the file itself. Without an epoch it is the last one kept, else `<prefix>_latest.pt`.
    Raises ClipcapError when there are such files but not the one asked for, or those of several prefixes.
    """
    if model_dir.is_file() and model_dir.suffix == ".pt":
        return model_dir
    kept: dict[tuple[str, int], Path] = {}
    for file in model_dir.glob("*.pt"):
        match = re.fullmatch(r"(.+)-(\d{3,})|(.+)_latest", file.stem)
        if match:
            kept[match[1] or match[3], int(match[2] or -1)] = file
    if not kept:
        return None
    chosen = {key: file for key, file in kept.items() if prefix in (None, key[0]) and epoch in (None, key[1])}
    names = ", ".join(sorted(file.name for file in kept.values()))
    if not chosen:
        wanted = f"{prefix or 'any prefix'}, {'any epoch' if epoch is None else f'epoch {epoch}'}"
        raise ClipcapError(
            f"no checkpoint of {wanted} in {model_dir}, which has {names}; choose with --prefix, --epoch"
        )
    if len({name for name, _ in chosen}) > 1:
        raise ClipcapError(f"{model_dir} has checkpoints of several prefixes ({names}); choose with --prefix")
    return chosen[max(chosen)]


def load_legacy(
    file: Path, lm: str | None = None, choices: LegacyChoices | None = None
) -> tuple[PrefixCaptioner, LegacyReport]:
    """The captioner of a ClipCap program's checkpoint, on the CPU in eval mode, and how it was read.

    lm: the language model that it was trained with, which such a file does not name; it gives the tokenizer and the
        architecture, and the weights where the file has none. "gpt2" unless given.
    Raises ClipcapError, naming the key, when a key or a shape fits no layout.
    """
    lm = lm or "gpt2"
    state, report = _read(file), LegacyReport()
    language_model, tokenizer = load_language_model(lm)
    embedding_dim = language_model.get_input_embeddings().weight.shape[1]
    mapping = _infer_mapping(file, state, embedding_dim, choices or LegacyChoices(), report)

    stored = language_model.state_dict()
    weights = {key[len("gpt.") :]: tensor for key, tensor in state.items() if key.startswith("gpt.")}
    frozen = all(name not in weights or torch.equal(tensor, weights[name].float()) for name, tensor in stored.items())
    digest = digest_language_model(language_model)
    model = PrefixCaptioner(CaptionerConfig(mapping, lm, digest, frozen, STOP_TEXT), language_model, tokenizer)
    _fill(file, model, state, report)
    size = (
        f"{sum(p.numel() for p in language_model.parameters()):,} weights, {embedding_dim} wide, {len(stored)} tensors"
    )
    origin = "as it is, so it stays out of the checkpoint" if frozen else "with the weights of the file"
    report.inferred.append(f"language model: {lm} ({size}), {origin}")
    report.inferred.append(f'captions stop behind "{STOP_TEXT}" (token {model.stop_tokens[0]}) and may break off')
    return model.eval(), report


def _read(file: Path) -> dict[str, Tensor]:
    with reading(file, "the weights", "save the model's state_dict()"):
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ClipcapError(f"{file} holds a {type(state).__name__}; expected a state dict of a ClipCap program")
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided):
            raise ClipcapError(f"{file}: the key {key!r} holds no tensor; expected a state dict of a ClipCap program")
        if not key.startswith(("gpt.", "clip_project.")):
            raise ClipcapError(f"{file}: the key {key!r} fits no layout; ClipCap's begin with gpt. and clip_project.")
    return dict(state)


def _infer_mapping(
    file: Path, state: Mapping[str, Tensor], embedding_dim: int, choices: LegacyChoices, report: LegacyReport
) -> MappingConfig:
    mlp = "clip_project.model.0.weight" in state
    first = "clip_project.model.0.weight" if mlp else "clip_project.linear.weight"
    last = "clip_project.model.2.weight" if mlp else first
    for key, what in {first: "the first layer of its mapping network", last: "the perceptron's last layer"}.items():
        if key not in state:
            raise ClipcapError(f"{file} lacks the key {key}, {what}; it is no checkpoint of a ClipCap program")
        if state[key].ndim != 2:
            raise ClipcapError(f"{file}: {key} has shape {list(state[key].shape)}; expected a matrix")
    hidden, feature_dim = state[first].shape
    if state[last].shape[0] % embedding_dim:
        raise ClipcapError(
            f"{file}: {last} has shape {list(state[last].shape)}, which makes no whole number of the language model's "
            f"{embedding_dim}-wide embeddings; give the language model that it was trained with as --lm"
        )
    tokens = state[last].shape[0] // embedding_dim
    video = tokens == 1
    frames = (choices.frames or FRAMES) if video else 1
    source = f"a token of each of up to {frames} frames" if video else f"{tokens} tokens of one vector"
    if mlp:
        if choices.cross:
            raise ClipcapError(f"{file} holds a perceptron ({first}), which has no cross attention; leave out --cross")
        kind, layers, prefix_length = "mlp", 1, (choices.prefix_length or frames) if video else tokens
        report.inferred.append(f"mapping: mlp ({feature_dim}, {hidden}, {state[last].shape[0]}): {source}")
    else:
        constants = state.get("clip_project.prefix_const")
        if constants is None:
            raise ClipcapError(
                f"{file} lacks the key clip_project.prefix_const; it is no checkpoint of a ClipCap program"
            )
        kind, prefix_length = "cross" if choices.cross else "transformer", constants.shape[0]
        numbers = {
            int(match[1]) for key in state if (match := re.match(r"clip_project\.transformer\.layers\.(\d+)", key))
        }
        layers = max(numbers, default=-1) + 1
        if layers == 0:
            raise ClipcapError(
                f"{file} lacks the keys clip_project.transformer.layers; no mapping network has no layers"
            )
        hint = "" if choices.cross or not video else "; a cross one looks the same, and is meant only with --cross"
        report.inferred.append(f"mapping: {kind}: {source}{hint}")
        report.inferred.append(f"layers: {layers}")
    report.inferred.append(f"prefix length: {prefix_length}")
    report.inferred.append(f"feature size: {feature_dim}{', normalised' if choices.normalize_prefix else ''}")
    return MappingConfig(
        mapping_type=kind,
        feature_dim=feature_dim,
        embedding_dim=embedding_dim,
        prefix_length=prefix_length,
        max_frames=frames,
        num_layers=layers,
        input_norm=False,
        temporal_positions=False,
        normalize_prefix=choices.normalize_prefix,
        tokens_per_frame=tokens,
        hidden_dim=hidden if mlp else None,
    )


def _fill(file: Path, model: PrefixCaptioner, state: Mapping[str, Tensor], report: LegacyReport) -> None:
    """Puts the weights into the model; every key must have its place, and every place its key."""
    wanted, loaded = model.state_dict(), {}
    for key, tensor in state.items():
        if _MASKS.fullmatch(key):
            report.dropped[key] = "an attention mask, no weight"
            continue
        name = _our_name(key)
        if name not in wanted:
            raise ClipcapError(f"{file}: the key {key} fits no layout of a ClipCap program with this language model")
        if tensor.shape != wanted[name].shape:
            raise ClipcapError(
                f"{file}: {key} has shape {list(tensor.shape)}, where {list(wanted[name].shape)} fits; "
                "if it is the language model's, give the one that it was trained with as --lm"
            )
        loaded[name] = tensor.float()
        report.mapped[key] = name
    _drop_tied_head(file, model, loaded, report)
    has_language_model = any(name.startswith("language_model.") for name in loaded)
    needed = [name for name in wanted if has_language_model or name.startswith("mapping.")]
    tied = {name for name in needed if name.endswith("lm_head.weight")}
    missing = [name for name in needed if name not in loaded and name not in tied]
    if missing:
        raise ClipcapError(f"{file} lacks the weights of {missing[0]} and {len(missing) - 1} more; it is incomplete")
    model.load_state_dict(loaded, strict=False)


def _drop_tied_head(file: Path, model: PrefixCaptioner, loaded: dict[str, Tensor], report: LegacyReport) -> None:
    """GPT-2's output weights are its input embeddings under another name."""
    head, embedding = "language_model.lm_head.weight", "language_model.transformer.wte.weight"
    if head not in loaded:
        return
    if not torch.equal(loaded[head], loaded.get(embedding, loaded[head])):
        raise ClipcapError(f"{file}: gpt.lm_head.weight differs from gpt.transformer.wte.weight; GPT-2 has them tied")
    del loaded[head]
    old = next(old for old, new in report.mapped.items() if new == head)
    del report.mapped[old]
    report.dropped[old] = f"the same as {embedding}"


def _our_name(key: str) -> str:
    """The name in our state dict of a key in theirs; a name that does not exist for a key of no layout."""
    if key.startswith("gpt."):
        return f"language_model.{key[len('gpt.') :]}"
    place = key[len("clip_project.") :]
    layer = _LAYER.fullmatch(place)
    if layer:
        place = layer[2]
        for theirs, ours in _LAYER_PARTS.items():
            if place.startswith(f"{theirs}."):
                place = ours + place[len(theirs) :]
        return f"mapping.layers.{layer[1]}.{place}"
    owner, _, kind = place.rpartition(".")
    return f"mapping.{_OUTSIDE_LAYERS[owner]}.{kind}" if owner in _OUTSIDE_LAYERS else f"mapping.{place}"
