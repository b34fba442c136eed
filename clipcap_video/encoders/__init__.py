"""Frozen image encoders, found by name. Importing this package loads no network library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from clipcap_video.errors import ClipcapError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipcap_video.encoders.base import ImageEncoder


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

FAMILIES = (
    Family(
        "clip",
        RESNET_CLIPS + VIT_CLIPS,
        form="a CLIP file PATH.pt or PATH.safetensors",
        pattern=r".+\.(pt|pth|safetensors)",
    ),
    Family("huggingface", form="hf:NAME_OR_PATH", pattern=r"hf:.+"),
    Family("torchvision", ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")),
    Family("efficientnet_lite", tuple(f"efficientnet-lite{size}" for size in range(5))),
)


def known_encoders() -> list[str]:
    """Every name, and every form of name, that `load_encoder` takes."""
    names: list[str] = []
    for family in FAMILIES:
        names += family.names
        if family.form is not None:
            names.append(family.form)
    return names


def load_encoder(name: str, device: torch.device, precision: str = "fp32", weights: Path | None = None) -> ImageEncoder:
    """The encoder called `name`, ready on `device` in `precision` ("fp32" or "bf16").

    weights: a file to read instead of the published weights of that name.
    Raises ClipcapError when the name is unknown or the weights cannot be had.
    """
    for family in FAMILIES:
        if family.knows(name):
            module = import_module(f"{__name__}.{family.module}")
            encoder: ImageEncoder = module.load(name, device, precision, weights)
            return encoder
    raise ClipcapError(f"unknown encoder {name!r}; use one of {', '.join(known_encoders())}")


class TextEncoder(Protocol):
    """What a frozen text encoder offers; image encoders with a text side do, too.

    dim: width D of a text's vector. weights_digest: as in ImageEncoder.
    """

    name: str
    dim: int
    weights_digest: str

    def encode_text(self, texts: list[str]) -> Tensor:
        """n texts -> float32 [n, D] on the CPU."""
        ...


SENTENCE_ENCODERS = Family("sentence", ("all-minilm-l6-v2",), form="st:NAME_OR_PATH", pattern=r"st:.+")


def load_text_encoder(name: str, device: torch.device, precision: str = "fp32") -> TextEncoder:
    """The text encoder called `name`: a sentence encoder, or the text side of a CLIP or SigLIP encoder.

    Raises ClipcapError when the name is unknown, has no text side, or the weights cannot be had.
    """
    if SENTENCE_ENCODERS.knows(name):
        encoder: TextEncoder = import_module(f"{__name__}.sentence").load(name, device, precision)
        return encoder
    if not any(family.knows(name) for family in FAMILIES):
        known = ", ".join((*SENTENCE_ENCODERS.names, "st:NAME_OR_PATH", *known_encoders()))
        raise ClipcapError(f"unknown text encoder {name!r}; use one of {known}")
    image = load_encoder(name, device, precision)
    image.encode_text(["a"])  # an encoder without a text side says so
    return image
