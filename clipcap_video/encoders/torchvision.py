"""Convolutional networks of torchvision, trained on ImageNet; features are their global average pool."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from clipcap_video.encoders.base import NetworkEncoder, Preprocessing, scaled
from clipcap_video.encoders.weights import (
    FullPrecision,
    StateDict,
    digest_weights,
    fold_batch_norms,
    load_weights,
    read_state_dict,
)
from clipcap_video.errors import ClipcapError

STEM, CLASSIFIER = "conv1", "fc"  # of every ResNet; the classifier is taken off
STAGES = ("layer1", "layer2", "layer3", "layer4")


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> NetworkEncoder:
    """A network with torchvision's newest ImageNet weights, or with a state dict from `weights`."""
    state = download(name) if weights is None else read_state_dict(weights)
    network = get_model(name, weights=None)
    dim = getattr(network, CLASSIFIER).in_features
    setattr(network, CLASSIFIER, nn.Identity())
    body = {key: value for key, value in state.items() if not key.startswith(f"{CLASSIFIER}.")}
    load_weights(network, body, weights or Path(name), name)
    digest = digest_weights(network)
    network = fold_batch_norms(network)
    setattr(network, STEM, FullPrecision(getattr(network, STEM)))
    parts = dict(network.named_children())
    stages = {"stem": [parts[STEM]]} | {stage: [parts[stage]] for stage in STAGES}
    return TorchvisionEncoder(
        name, network, dim, recipe(name), digest, device, precision, convolutional=True, stages=stages
    )


def download(name: str) -> StateDict:
    """The published weights, from torchvision's cache or its server."""
    published = get_model_weights(name).DEFAULT
    try:
        state: StateDict = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ClipcapError(
            f"cannot download the weights of {name} ({error}); "
            f"fetch {published.url} elsewhere and give its path with --encoder_weights"
        ) from None
    return state


def recipe(name: str) -> Preprocessing:
    """Resize, crop and normalisation that belong to the published weights."""
    transforms = get_model_weights(name).DEFAULT.transforms()
    side = transforms.crop_size[0]
    mean, std = scaled(transforms.mean), scaled(transforms.std)
    return Preprocessing(transforms.resize_size[0], (side, side), transforms.interpolation.value, mean, std)


class TorchvisionEncoder(NetworkEncoder):
    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)
