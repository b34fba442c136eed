"""Frozen encoders, found by name. Importing this package loads no network library.

A new family is one module with a function `load`, and a line in FAMILIES, or in TEXT_FAMILIES if it reads texts alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap_video.errors import ClipcapError

if TYPE_CHECKING:
    import torch

    from clipcap_video.encoders.base import ImageEncoder, TextEncoder


@dataclass(frozen=True)
class Family:
    """module: the file here that holds `load(name, device, precision, weights)`.

    names: the names it knows. form, pattern: how names outside that list look, for people and as a regex.
    """

    module: str
    names: tuple[str, ...] = ()
    form: str | None = None
    pattern: str | None = None

    def knows(self, name: str) -> bool:
        return name in self.names or (self.pattern is not None and bool(re.fullmatch(self.pattern, name)))


RESNET_CLIPS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")
VIT_CLIPS = ("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")

FAMILIES = [
    Family(
        "clipcap_video.encoders.clip",
        RESNET_CLIPS + VIT_CLIPS,
        form="a CLIP file PATH.pt or PATH.safetensors",
        pattern=r"(?!(hf|open_clip|timm|retrieval):).+\.(pt|pth|safetensors)",
    ),
    Family("clipcap_video.encoders.huggingface", form="hf:NAME_OR_PATH", pattern=r"hf:.+"),
    Family("clipcap_video.encoders.open_clip", form="open_clip:NAME/PRETRAINED", pattern=r"open_clip:.+"),
    Family("clipcap_video.encoders.timm", form="timm:NAME", pattern=r"timm:.+"),
    Family("clipcap_video.encoders.torchvision", ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")),
    Family("clipcap_video.retrieval.encoder", form="retrieval:FOLDER", pattern=r"retrieval:.+"),
    Family("clipcap_video.encoders.efficientnet_lite", tuple(f"efficientnet-lite{size}" for size in range(5))),
]


def names_of(families: Sequence[Family]) -> list[str]:
    """Every name, and every form of name, that they know."""
    return [name for family in families for name in (*family.names, family.form) if name is not None]


def load_encoder(name: str, device: torch.device, precision: str = "fp32", weights: Path | None = None) -> ImageEncoder:
    """The encoder called `name`, ready on `device` in `precision` ("fp32" or "bf16").

    weights: a file to read instead of the published weights of that name.
    Raises ClipcapError when the name is unknown or the weights cannot be had.
    """
    for family in FAMILIES:
        if family.knows(name):
            module = import_module(family.module)
            encoder: ImageEncoder = module.load(name, device, precision, weights)
            return encoder
    raise ClipcapError(f"unknown encoder {name!r}; use one of {', '.join(names_of(FAMILIES))}")


TEXT_FAMILIES = [
    Family("clipcap_video.encoders.sentence", ("all-minilm-l6-v2",), form="st:NAME_OR_PATH", pattern=r"st:.+"),
    Family("clipcap_video.encoders.word_vectors", ("starter",)),
]


def load_text_encoder(name: str, device: torch.device, precision: str = "fp32") -> TextEncoder:
    """The text encoder called `name`: a sentence encoder, or the text side of a CLIP or SigLIP encoder.

    Raises ClipcapError when the name is unknown, has no text side, or the weights cannot be had.
    """
    for family in TEXT_FAMILIES:
        if family.knows(name):
            encoder: TextEncoder = import_module(family.module).load(name, device, precision)
            return encoder
    if not any(family.knows(name) for family in FAMILIES):
        known = ", ".join([*names_of(TEXT_FAMILIES), *names_of(FAMILIES)])
        raise ClipcapError(f"unknown text encoder {name!r}; use one of {known}")
    image = load_encoder(name, device, precision)
    image.encode_text(["a"])  # an encoder without a text side says so
    return image
