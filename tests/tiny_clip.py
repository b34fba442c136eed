"""Tiny random CLIP models in OpenAI's own format."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from clip.model import CLIP

CONTEXT = 77
VOCABULARY = 49408  # of the real tokenizer, so that real texts have embeddings
EMBED_DIM = 48


def tiny_clip(kind: str = "vit", seed: int = 0, resolution: int = 64) -> CLIP:
    """A random CLIP in eval mode: kind "vit" (patches of 16 pixels) or "resnet"."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = 2 if kind == "vit" else (1, 1, 1, 1)
        width = 64 if kind == "vit" else 16
        model = CLIP(EMBED_DIM, resolution, layers, width, 16, CONTEXT, VOCABULARY, 64, 1, 1).eval()
    # As initialised, images hardly matter: signals fade, and the last batch norm of a block is zero.
    for module in model.visual.modules():
        if kind == "resnet" and isinstance(module, torch.nn.Conv2d):
            noise = torch.randn(module.weight.shape, generator=generator)
            module.weight.data.copy_(noise * (2 / module.weight[0].numel()) ** 0.5)
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.requires_grad_(False)


def save_tiny_clip(path: Path, kind: str = "vit", seed: int = 0) -> Path:
    """A state dict as `torch.save(model.state_dict())` writes it."""
    torch.save(tiny_clip(kind, seed).state_dict(), path)
    return path


def save_tiny_archive(path: Path, kind: str = "vit", seed: int = 0) -> Path:
    """A TorchScript archive, the format of the published files."""
    model = tiny_clip(kind, seed)
    side = model.visual.input_resolution
    tokens = torch.zeros(1, CONTEXT, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, (torch.zeros(1, 3, side, side), tokens), check_trace=False).save(str(path))
    return path


def cosine_distance(a: Tensor, b: Tensor) -> float:
    """The largest cosine distance between rows of a and b, both [n, D]."""
    return float((1 - torch.cosine_similarity(a.double(), b.double())).max())
