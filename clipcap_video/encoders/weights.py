"""Reading weights safely, naming them by a digest, and making a frozen network faster."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipcap_video.errors import ClipcapError
from clipcap_video.files import open_safetensors, reading

StateDict = dict[str, Tensor]


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a TorchScript archive, a safetensors file or a saved state dict, on the CPU.

    Never unpickles objects. Raises ClipcapError when the file is missing or holds something else.
    """
    if not path.is_file():
        raise ClipcapError(f"no weights at {path}; check the path")
    if path.suffix == ".safetensors":
        with open_safetensors(path, "the weights", "fetch the file again") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
    with reading(path, "the weights", "save a state dict with torch.save"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the age of the file's format
        content = _read_archive(path) or torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ClipcapError(f"{path} holds no state dict; save model.state_dict() with torch.save")
    return {
        str(key).removeprefix("module."): value
        for key, value in content.items()
        if isinstance(value, Tensor) and value.layout == torch.strided
    }


def _read_archive(path: Path) -> StateDict | None:
    try:
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    except RuntimeError:
        return None  # not a TorchScript archive


def load_weights(network: nn.Module, weights: StateDict, path: Path, name: str) -> None:
    """Copies `weights` into `network`. Raises ClipcapError when names or shapes differ."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        differences = str(error).strip().splitlines()
        detail = differences[1].strip() if len(differences) > 1 else differences[0]
        shown = detail if len(detail) < 160 else detail[:157] + "..."
        raise ClipcapError(f"{path} does not hold the weights of {name}: {shown.rstrip('. ')}") from None


def digest_weights(network: nn.Module) -> str:
    """A digest of names, shapes and values of all weights, the same on every device and in every run.

    Half-precision weights count by their value, so a copy stored in float32 has the same digest.
    Call it before the weights are cast or folded. ViT-L/14 (428M parameters) takes about a second and a half.
    """
    weights = {
        name: tensor
        for name, tensor in sorted(network.state_dict().items())
        if not name.endswith("num_batches_tracked")  # counts training steps, leaves features as they are
    }
    digest = hashlib.sha256()
    with ThreadPoolExecutor(4) as pool:
        for name, values in zip(weights, pool.map(_digest_values, weights.values()), strict=True):
            digest.update(f"{name}{tuple(weights[name].shape)}".encode())
            digest.update(values)
    return f"sha256:{digest.hexdigest()[:16]}"


def _digest_values(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().cpu().float().contiguous().numpy().data).digest()


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in eval mode in which each batch norm is part of the convolution before it.

    A batch norm belongs to the convolution registered right before it in the same module; that holds
    for every network in this package, and the tests compare features with and without folding.
    """
    network = copy.deepcopy(network.eval())
    for module in list(network.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, nn.Identity())
            before = (name, child)
    return network


class FullPrecision(nn.Module):
    """Runs a module in float32 inside a bf16 region.

    For the first layers of a convolutional network: they are cheap, and rounding there reaches all others.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x.float(), **options)


def write_weights(file: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Writes a safetensors file."""
    from safetensors.torch import save

    # `save_file` would make the file readable by its owner alone, whatever the umask.
    file.write_bytes(save({name: tensor.to(dtype) for name, tensor in weights.items()}))
