"""From frames of any size to the pixels that a network was trained on: resize, crop, scale, normalise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RGB = tuple[float, ...]
# Frames that are more times as long as wide lose their ends before they are resized.
MOST_LONG = 16


@dataclass(frozen=True)
class Preprocessing:
    """One family's recipe.

    resize: length of the short side in pixels (the aspect ratio stays), or (height, width), or None.
    crop: (height, width) of the centre crop, or None. Where the image is smaller, black fills the rest.
    mean, std: per channel, in units of 0..255 pixels.
    crop_rounds: an odd margin is halved to the nearest even number, as torchvision does it;
        otherwise downwards, as transformers does it.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: str
    mean: RGB
    std: RGB
    crop_rounds: bool = True

    def __str__(self) -> str:
        parts = []
        if isinstance(self.resize, int):
            parts.append(f"short side {self.resize} {self.interpolation}")
        elif self.resize is not None:
            parts.append(f"resize {self.resize[0]}x{self.resize[1]} {self.interpolation}")
        if self.crop is not None:
            parts.append(f"{'' if self.crop_rounds else 'floored '}center crop {self.crop[0]}x{self.crop[1]}")
        mean, std = (" ".join(f"{value:.5g}" for value in values) for values in (self.mean, self.std))
        return ", ".join([*parts, f"mean {mean}", f"std {std}"])

    def resize_and_crop(self, frames: Tensor) -> Tensor:
        """uint8 [n, 3, H, W] -> uint8 [n, 3, h, w], channels last in memory; on the CPU, thread-safe.

        The antialiased uint8 filters of torch are those of Pillow: single pixels differ by 1 of 255 at most.
        Decoded frames (channels last in memory) take a small part of the time that Pillow needs.
        """
        frames = self._middle(frames)
        height, width = frames.shape[-2:]
        size = resized(height, width, self.resize)
        if size != (height, width):
            frames = F.interpolate(frames, size=size, mode=self.interpolation, antialias=True)
        if self.crop is not None:
            frames = center_crop(frames, self.crop, self.crop_rounds)
        # The copy lets go of the pixels outside the crop.
        return frames.contiguous(memory_format=torch.channels_last)

    def _middle(self, frames: Tensor) -> Tensor:
        """Frames without what the crop would take off anyway, where they are so long that resizing it would take
        gigabytes (2 x 30,000 pixels)."""
        height, width = frames.shape[-2:]
        if self.crop is None or not isinstance(self.resize, int):
            return frames
        most = MOST_LONG * min(height, width)
        if max(height, width) <= most:
            return frames
        size = (min(height, most), min(width, most))
        return center_crop(frames, size, self.crop_rounds)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] -> float32 [n, 3, S, S]: (pixel - mean) / std, on the device of `images`."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        return images.float().sub_(mean).div_(std)


def scaled(values: Iterable[float], unit: float = 255.0) -> RGB:
    """Means or standard deviations of pixels in units of `unit`, by default 0..1, in units of 0..255."""
    return tuple(float(value) * unit for value in values)


def resized(height: int, width: int, resize: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) after the resize; the long side is rounded down, as in torchvision and transformers."""
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def center_crop(images: Tensor, crop: tuple[int, int], rounds: bool) -> Tensor:
    """The middle of [n, 3, H, W] as [n, 3, crop height, crop width]; a view unless black has to be added."""
    missing = [max(wanted - present, 0) for wanted, present in zip(crop, images.shape[-2:], strict=True)]
    if any(missing):
        high, wide = missing
        images = F.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    margins = [present - wanted for wanted, present in zip(crop, images.shape[-2:], strict=True)]
    top, left = (round(margin / 2) if rounds else margin // 2 for margin in margins)
    return images[..., top : top + crop[0], left : left + crop[1]]
