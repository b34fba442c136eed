"""Checkpoints of CLIP4Clip's released code: `pytorch_model.bin.N`, a state dict with CLIP's weights and a head's.

Which head and which patch projection follow from the keys, the sizes from the shapes. The heads of the transformers are
that code's: one for 64 of the width in the sequential one, eight in the cross one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from clipcap_video.encoders.weights import read_state_dict
from clipcap_video.errors import ClipcapError
from clipcap_video.files import natural_key
from clipcap_video.models.legacy import LegacyReport
from clipcap_video.retrieval.model import RetrievalConfig, RetrievalModel
from clipcap_video.retrieval.video_clip import VideoClip

CROSS_HEADS = 8
_CLIP = "clip."
# head -> the key that only it has, and where its keys belong in our model
_LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "seqTransf": (
        "transformerClip.resblocks.0.attn.in_proj_weight",
        {"frame_position_embeddings.weight": "head.positions", "transformerClip.": "head.transformer."},
    ),
    "seqLSTM": ("lstm_visual.weight_ih_l0", {"lstm_visual.": "head.lstm."}),
    "tightTransf": (
        "cross.transformer.resblocks.0.attn.in_proj_weight",
        {
            "cross.embeddings.position_embeddings.weight": "head.positions",
            "cross.transformer.": "head.transformer.",
            "cross.pooler.ln_pool.": "head.norm.",
            "cross.pooler.dense.": "head.dense.",
            "similarity_dense.": "head.similarity.",
        },
    ),
    "meanP": ("", {}),
}
# Parts that the released code builds whether the head uses them or not.
_UNUSED = {
    "frame_position_embeddings.": "positions, which the head does not use",
    "cross.": "a cross transformer, which the head does not use",
    "similarity_dense.": "the end of a cross transformer, which the head does not use",
    "clip.input_resolution": "a size, no weight",
    "clip.context_length": "a size, no weight",
    "clip.vocab_size": "a size, no weight",
}


def is_clip4clip(file: Path) -> bool:
    """Whether `file` is named as CLIP4Clip names its checkpoints: pytorch_model.bin.N."""
    return ".bin" in file.suffixes


def last_clip4clip(folder: Path) -> Path | None:
    """The checkpoint of the last epoch among those in a folder of CLIP4Clip's; None where there is none."""
    files = [file for file in folder.glob("pytorch_model.bin*") if is_clip4clip(file)]
    return max(files, key=lambda file: natural_key(file.name), default=None)


def load_clip4clip(file: Path, max_frames: int = 12, max_words: int = 32) -> tuple[RetrievalModel, LegacyReport]:
    """The retrieval model of a CLIP4Clip checkpoint, on the CPU in eval mode, and how it was read.

    max_frames, max_words: those it was trained with, which the file does not tell.
    Raises ClipcapError, naming the key, when a key or a shape fits no layout.
    """
    state, report = read_state_dict(file), LegacyReport()
    name = next(name for name, (key, _) in _LAYOUTS.items() if not key or key in state)
    clip = VideoClip({key[len(_CLIP) :]: value for key, value in state.items() if key.startswith(_CLIP)}, file)
    layers = sum(_is_layer(name, key) for key in state)
    dim = clip.dim
    config = RetrievalConfig(
        sim_header=name,
        dim=dim,
        feature_dim=dim,
        text_dim=dim,
        project=False,
        linear_patch=clip.linear_patch,
        num_layers=max(1, layers),
        num_heads=CROSS_HEADS if name == "tightTransf" else max(1, dim // 64),
        max_positions=clip.network.context_length,
        max_frames=max_frames,
        max_words=max_words,
    )
    model = RetrievalModel(config, clip)
    _fill(file, model, state, name, report)
    size = f"{clip.pixels.resize} pixels, {dim} wide"
    report.inferred.append(f"CLIP: {size}, {clip.linear_patch} patches")
    depth = f", {config.num_layers} layers, {config.num_heads} attention heads" if layers else ""
    report.inferred.append(f"similarity head: {name}{depth}")
    return model.eval(), report


def _is_layer(name: str, key: str) -> bool:
    """Whether `key` is the one that each layer of the head's transformer has."""
    prefix = {"seqTransf": "transformerClip.resblocks.", "tightTransf": "cross.transformer.resblocks."}.get(name)
    return prefix is not None and key.startswith(prefix) and key.endswith("in_proj_weight")


def _fill(file: Path, model: RetrievalModel, state: Mapping[str, Tensor], name: str, report: LegacyReport) -> None:
    """Puts the weights into the model; every key must have its place, and every place its key."""
    wanted = model.state_dict()
    shared = "head.logit_scale"  # another name of CLIP's
    weights_of_heads: dict[str, Tensor] = {}
    for key, tensor in state.items():
        place = _place(key, name)
        if place not in wanted:
            reason = next((reason for prefix, reason in _UNUSED.items() if key.startswith(prefix)), None)
            if reason is None:
                raise ClipcapError(f"{file}: the key {key} fits no layout of CLIP4Clip with the head {name}")
            report.dropped[key] = reason
            continue
        if tensor.shape != wanted[place].shape:
            raise ClipcapError(f"{file}: {key} has shape {list(tensor.shape)}, where {list(wanted[place].shape)} fits")
        weights_of_heads[place] = tensor.float()
        report.mapped[key] = place
    missing = [place for place in wanted if place not in weights_of_heads and place != shared]
    if missing:
        raise ClipcapError(f"{file} lacks the weights of {missing[0]} and {len(missing) - 1} more; it is incomplete")
    model.load_state_dict(weights_of_heads, strict=False)


def _place(key: str, name: str) -> str:
    """The name in our state dict of a key in theirs; a name that does not exist for a key of no layout."""
    if key.startswith(_CLIP):
        return f"clip.network.{key[len(_CLIP) :]}"
    for theirs, ours in _LAYOUTS[name][1].items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def clip4clip_state(model: RetrievalModel, where: Path) -> dict[str, Tensor]:
    """The state dict that the released code writes. Raises ClipcapError for a model that has no such form."""
    if model.clip is None:
        raise ClipcapError(f"{where} was trained on stored features, beside a text encoder; CLIP4Clip has CLIP inside")
    name = model.config.sim_header
    back = {ours: theirs for theirs, ours in _LAYOUTS[name][1].items()} | {"clip.network.": _CLIP}
    state = {}
    for key, tensor in model.state_dict().items():
        if key == "head.logit_scale":  # another name of CLIP's
            continue
        theirs = next((theirs + key[len(ours) :] for ours, theirs in back.items() if key.startswith(ours)), key)
        if _place(theirs, name) != key:
            raise ClipcapError(f"{where} has weights {key} that fit no layout of CLIP4Clip; it has no such form")
        state[theirs] = tensor.detach().cpu().clone()
    return state
