"""A captioner of ours as a checkpoint of the ClipCap programs, for those that have such a form."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from clipcap_video.errors import ClipcapError
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.legacy import _LAYER_PARTS, _our_name
from clipcap_video.models.prefix import PrefixCaptioner

_EXTRAS = ("input_norm", "temporal_positions")  # of mapping networks, which those programs do not know


def legacy_state(model: CaptionModel, where: Path) -> dict[str, Tensor]:
    """The state dict `gpt.*`, `clip_project.*` of a model. Raises ClipcapError, naming what stands in the way."""
    if not isinstance(model, PrefixCaptioner):
        raise ClipcapError(f"{where} is no prefix captioner, and ClipCap knows no other; it has no such form")
    mapping = model.config.mapping
    extra = [name for name in _EXTRAS if getattr(mapping, name)] + (["adapters"] if model.config.lora_rank else [])
    extra += ["origin_token"] if model.config.origins else []
    extra += ["a prompt"] if model.config.prompt_length else []
    if extra:
        raise ClipcapError(
            f"{where} has {extra[0]}, which ClipCap lacks; it has no such form. Train with --recipe reference for one"
        )
    state = {}
    for name, tensor in model.state_dict().items():
        theirs = _their_name(name, mapping.mapping_type)
        if _our_name(theirs) != name:
            raise ClipcapError(f"{where} has weights {name} that fit no layout of ClipCap; it has no such form")
        state[theirs] = tensor.detach().cpu().float().clone()
    if "gpt.transformer.wte.weight" not in state:
        raise ClipcapError(
            f"the language model of {where} is no GPT-2, and ClipCap knows no other; it has no such form"
        )
    state["gpt.lm_head.weight"] = state["gpt.transformer.wte.weight"]
    # The transformers that those programs ask for (4.10) has its attention masks among the weights.
    length = len(state["gpt.transformer.wpe.weight"])
    mask = torch.ones(length, length, dtype=torch.uint8).tril()[None, None]
    for key in [key for key in state if key.endswith(".attn.c_attn.weight")]:
        attention = key.removesuffix("c_attn.weight")
        state |= {f"{attention}bias": mask, f"{attention}masked_bias": torch.tensor(-1e4)}
    return state


def _their_name(name: str, mapping_type: str) -> str:
    """The reverse of `_our_name`."""
    if name.startswith("language_model."):
        return "gpt." + name.removeprefix("language_model.")
    place = name.removeprefix("mapping.")
    if place.startswith("layers."):
        _, number, rest = place.split(".", 2)
        for theirs, ours in _LAYER_PARTS.items():
            if rest.startswith(f"{ours}."):
                rest = theirs + rest[len(ours) :]
        return f"clip_project.transformer.layers.{number}.{rest}"
    first = "model.0." if mapping_type == "mlp" else "linear."
    return "clip_project." + place.replace("frames.linear.", first).replace("project.", "model.2.")
