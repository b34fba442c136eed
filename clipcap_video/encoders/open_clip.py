"""The models of open_clip: `open_clip:NAME/PRETRAINED`, as `open_clip:ViT-B-32/laion2b_s34b_b79k`.

`open_clip:hf-hub:OWNER/NAME` is a model on the hub. In place of PRETRAINED stands a path, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipcap_video.encoders.base import NetworkEncoder, Preprocessing, scaled
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError, first_line


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> NetworkEncoder:
    """The model after `open_clip:`. Raises ClipcapError when it cannot be had."""
    try:
        import open_clip
    except ImportError:
        raise ClipcapError(f"encoder {name} needs open_clip; pip install 'clipcap-video[open_clip]'") from None
    model_name, pretrained = name.removeprefix("open_clip:"), ""
    if not model_name.startswith("hf-hub:"):
        model_name, _, pretrained = model_name.partition("/")
        pretrained = str(weights or pretrained)
        if not pretrained:
            raise ClipcapError(f"encoder {name} does not say which weights; use open_clip:{model_name}/PRETRAINED")
    elif weights is not None:
        raise ClipcapError(f"encoder {name} reads its own weights; leave out --encoder_weights")
    try:
        model = open_clip.create_model(model_name, pretrained or None, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # whatever the library throws at a name, a file or a network
        raise ClipcapError(
            f"cannot load {name} ({first_line(error)}); check the name, the file or the network"
        ) from None
    return OpenClipEncoder(name, model, tokenizer, read_recipe(model, name), device, precision)


def read_recipe(model: Any, name: str) -> Preprocessing:
    """What open_clip does to the pixels at inference."""
    from open_clip.model import get_model_preprocess_cfg

    settings = get_model_preprocess_cfg(model)
    size, mode = settings["size"], settings.get("resize_mode", "shortest")
    height, width = (size, size) if isinstance(size, int) else size
    known = settings["interpolation"] in ("bilinear", "bicubic")
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width) or not known:
        way = f"{mode}, {settings['interpolation']}, {height}x{width}"
        raise ClipcapError(f"encoder {name} resizes in a way that is not offered here ({way}); use another")
    resize = height if mode == "shortest" else (height, width)
    mean, std = scaled(settings["mean"]), scaled(settings["std"])
    return Preprocessing(resize, (height, width), settings["interpolation"], mean, std)


class OpenClipEncoder(NetworkEncoder):
    """Features: the projected embeddings of both sides, not normalised."""

    def __init__(
        self, name: str, model: Any, tokenizer: Any, pixels: Preprocessing, device: torch.device, precision: str
    ) -> None:
        digest = digest_weights(model)
        super().__init__(name, model, 0, pixels, digest, device, precision)
        self._tokenizer = tokenizer
        assert pixels.crop is not None
        self.dim = self._encode(torch.zeros(1, 3, *pixels.crop, dtype=torch.uint8)).shape[1]

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network.encode_image(pixels)

    def text_features(self, texts: list[str]) -> Tensor:
        return self.network.encode_text(self._tokenizer(texts).to(self.device))
