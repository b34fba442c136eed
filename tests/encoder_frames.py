"""Frames of many shapes for the encoder tests, and comparisons of pixels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# height, width: landscape, portrait, square, smaller than any network's input, odd margins, large
SIZES = {
    "landscape": (240, 427),
    "portrait": (427, 241),
    "square": (300, 300),
    "tiny": (31, 45),
    "odd": (287, 355),
    "large": (1080, 1920),
}


def frame(size: str, seed: int = 0) -> Tensor:
    """uint8 [3, H, W], laid out as a decoder does it: waves with a noisy quarter and hard edges."""
    height, width = SIZES[size]
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / width * f + phase) * np.cos(y / height * f) for f, phase in ((5, 0), (9, 1), (14, 2))]
    image = 127 + 90 * np.stack(waves, axis=-1)
    image[: height // 2, : width // 2] += random.normal(0, 60, (height // 2, width // 2, 3))
    image[height // 3 : height // 2, width // 2 :] = random.uniform(0, 255, 3)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def pixel_difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Mean and largest absolute difference, in units of 0..255."""
    difference = (a.double() - b.double()).abs()
    return float(difference.mean()), float(difference.max())
