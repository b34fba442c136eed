"""The image networks of timm: `timm:NAME`, as `timm:vit_base_patch16_dinov3` or `timm:hf-hub:OWNER/NAME`.

Features are what the network gives its classifier.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipcap_video.encoders.base import NetworkEncoder, Preprocessing, scaled
from clipcap_video.encoders.weights import digest_weights, load_weights, read_state_dict
from clipcap_video.errors import ClipcapError, first_line


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> NetworkEncoder:
    """The network after `timm:` with its published weights, or with a state dict from `weights`."""
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError:
        raise ClipcapError(f"encoder {name} needs timm; pip install 'clipcap-video[timm]'") from None
    try:
        network = timm.create_model(name.removeprefix("timm:"), pretrained=weights is None, num_classes=0)
    except Exception as error:  # whatever the library throws at a name or a network
        raise ClipcapError(
            f"cannot load {name} ({first_line(error)}); check the name, or give a file with --encoder_weights"
        ) from None
    if weights is not None:
        classifier = network.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
        kept = network.state_dict().keys()
        state = read_state_dict(weights)
        body = {key: value for key, value in state.items() if key in kept or not key.startswith(heads)}
        load_weights(network, body, weights, name)
    return TimmEncoder(name, network, read_recipe(resolve_model_data_config(network), name), device, precision)


def read_recipe(settings: dict[str, Any], name: str) -> Preprocessing:
    """What timm does to the pixels at inference."""
    channels, height, width = settings["input_size"]
    mode, interpolation = settings["crop_mode"], settings["interpolation"]
    refused = mode not in ("center", "squash") or (mode == "center" and height != width) or channels != 3
    if refused or interpolation not in ("bilinear", "bicubic"):
        way = f"{mode}, {interpolation}, {channels}x{height}x{width}"
        raise ClipcapError(f"encoder {name} resizes in a way that is not offered here ({way}); use another")
    scale = (math.floor(height / settings["crop_pct"]), math.floor(width / settings["crop_pct"]))
    resize = scale[0] if mode == "center" else scale
    return Preprocessing(resize, (height, width), interpolation, scaled(settings["mean"]), scaled(settings["std"]))


class TimmEncoder(NetworkEncoder):
    def __init__(self, name: str, network: Any, pixels: Preprocessing, device: torch.device, precision: str) -> None:
        super().__init__(name, network, network.num_features, pixels, digest_weights(network), device, precision)
        assert pixels.crop is not None
        self.dim = self._encode(torch.zeros(1, 3, *pixels.crop, dtype=torch.uint8)).shape[1]

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)
