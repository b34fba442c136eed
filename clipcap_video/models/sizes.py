"""Sizes that a configuration claims, held against the headers of the weights before anything of that size is made."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipcap_video.errors import ClipcapError
from clipcap_video.files import open_safetensors, reading
from clipcap_video.runs.options import DEEPEST

Shapes = dict[str, tuple[int, ...]]


def weight_shapes(file: Path) -> Shapes:
    """The shapes of the tensors in a safetensors file, from its header."""
    with open_safetensors(file, "the weights", "the checkpoint is incomplete") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no dict)


def pickled_shapes(file: Path) -> Shapes:
    """The shapes of the tensors in a file of torch.save; what they hold is mapped, and not read."""
    with reading(file, "the weights", "the checkpoint is incomplete"):
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        return {name: tuple(value.shape) for name, value in held.items() if isinstance(value, torch.Tensor)}


def check_outline(outline: Callable[[], nn.Module], sizes: Mapping[str, Any], file: Path) -> None:
    """Raises ClipcapError where a configuration does not fit the weights in `file`.

    outline: makes the modules that they fill, here without storage. sizes: the configuration; nested, if it is.
    """
    shapes = weight_shapes(file)
    check_layers(sizes, len(shapes), str(file), unused=DEEPEST)
    with reading(file, "the sizes of", "its configuration does not fit it; use another checkpoint"):
        with torch.device("meta"):
            modules = outline()
        names = [name for name, _ in modules.named_parameters()]
        if len(names) > len(shapes):
            lacking = min(set(names) - set(shapes))
            raise ClipcapError(
                f"{file} has {len(shapes)} tensors, and its configuration wants {len(names)}: it lacks tensor "
                f"{lacking}, for one; the checkpoint is damaged"
            )
        check_shapes(modules, shapes, str(file))


def check_shapes(outline: nn.Module, shapes: Shapes, where: str) -> None:
    """Raises ClipcapError where a tensor has another shape than that of the outline under its name."""
    for name, tensor in outline.state_dict().items():
        if name in shapes and shapes[name] != tuple(tensor.shape):
            raise ClipcapError(
                f"{where} has the wrong shape for tensor {name}: {list(shapes[name])}, where the configuration says "
                f"{list(tensor.shape)}; the checkpoint is damaged"
            )


def check_layers(sizes: Mapping[str, Any], tensors: int, where: str, unused: int = 1) -> None:
    """Raises ClipcapError where a number of layers is larger than the number of tensors, which no layer is without.

    unused: so many may be said of a network that has no layers; they are made without storage.
    """
    for name, value in _numbers(sizes):
        if "layer" in name and value > max(unused, tensors):
            raise ClipcapError(f"{where} has {tensors} tensors, and {name} is said to be {value}; it is damaged")


def _numbers(sizes: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in sizes.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield name, value


def sizes_of(config: Any) -> dict[str, Any]:
    """The fields of a configuration by name; none where it is no dataclass."""
    return asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
