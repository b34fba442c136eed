"""Convolutional networks of torchvision, trained on ImageNet; features are their global average pool."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from clipcap_video.encoders.base import NetworkEncoder
from clipcap_video.encoders.preprocessing import Preprocessing, unit_scale
from clipcap_video.encoders.weights import (
    FullPrecision,
    StateDict,
    digest_weights,
    fold_batch_norms,
    load_weights,
    read_state_dict,
)
from clipcap_video.errors import ClipcapError

# name -> (first convolution, classifier); the classifier is taken off
PARTS = {
    "resnet18": ("conv1", "fc"),
    "resnet34": ("conv1", "fc"),
    "resnet50": ("conv1", "fc"),
    "resnet101": ("conv1", "fc"),
    "resnet152": ("conv1", "fc"),
}


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> NetworkEncoder:
    """A network with torchvision's newest ImageNet weights, or with a state dict from `weights`."""
    stem, classifier = PARTS[name]
    state = download(name) if weights is None else read_state_dict(weights)
    network = get_model(name, weights=None)
    dim = getattr(network, classifier).in_features
    setattr(network, classifier, nn.Identity())
    body = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
    load_weights(network, body, weights or Path(name), name)
    digest = digest_weights(network)
    network = fold_batch_norms(network)
    setattr(network, stem, FullPrecision(getattr(network, stem)))
    parts = dict(network.named_children())
    stages = {"stem": [parts[stem]]} | {stage: [parts[stage]] for stage in ("layer1", "layer2", "layer3", "layer4")}
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
    mean, std = unit_scale(tuple(transforms.mean), tuple(transforms.std))
    return Preprocessing(transforms.resize_size[0], (side, side), transforms.interpolation.value, mean, std)


class TorchvisionEncoder(NetworkEncoder):
    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)
