"""What every frozen encoder offers, the part that all share, and the pixels that it makes of a frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipcap_video.devices import autocast, in_lanes
from clipcap_video.errors import NoTextSide

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


# What a core encodes at once on a CPU: so much that its products are large, so little that they fit its caches.
LANE_IMAGES = {"transformer": 8, "convolutional": 4}


class ImageEncoder(ABC):
    """A frozen network that turns frames into feature vectors.

    name: as the user typed it ("ViT-B/32", "hf:facebook/dinov2-small", "efficientnet-lite2").
    dim: width D of a feature vector.
    preprocessing: one line that fixes the pixels the network sees, e.g. "short side 224 bicubic, ...".
    weights_digest: "sha256:" and 16 hex digits over the weights (see `weights.digest_weights`).
    frames_per_clip: k, how many consecutive frames one feature vector is made of; 1 but for models of video clips.
    logit_scale: by which cosines of texts and images become logits, where there is a text side; CLIP's unless it says.
    """

    name: str
    dim: int
    preprocessing: str
    weights_digest: str
    device: torch.device
    precision: str
    frames_per_clip: int = 1
    logit_scale: float = 100.0

    @abstractmethod
    def preprocess(self, frames: Tensor) -> Tensor:
        """Resize and crop on the CPU, thread-safe: frames uint8 RGB [n, 3, H, W] -> uint8 [n, 3, S, S]."""

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Features of preprocessed frames: uint8 [n * k, 3, S, S] on any device -> float32 [n, D] on the CPU.

        Scales and normalises the pixels on the encoder's device, runs under its precision, no gradient.
        """

    def begin_images(self, images: Tensor) -> Callable[[], Tensor]:
        """As `encode_images`, but where it can it only begins: the features are what the returned function waits for.

        Who begins a batch before the one before it has ended leaves no core idle between them.
        """
        features = self.encode_images(images)
        return lambda: features

    def encode_text(self, texts: list[str]) -> Tensor:
        """Features of texts in the space of the images: n texts -> float32 [n, D] on the CPU."""
        raise NoTextSide(f"encoder {self.name} has no text side; use a CLIP or SigLIP encoder")


class NetworkEncoder(ImageEncoder):
    """An encoder made of one recipe for the pixels and one torch network.

    A family gives `image_features`, and `text_features` where it has a text side.

    stages: parts of the network in the order in which pixels pass them, name -> modules; only where they can be
        trained (see `trainable.TrainableEncoder`).
    """

    stages: dict[str, list[nn.Module]]

    def __init__(
        self,
        name: str,
        network: nn.Module,
        dim: int,
        pixels: Preprocessing,
        weights_digest: str,
        device: torch.device,
        precision: str,
        convolutional: bool = False,
        stages: dict[str, list[nn.Module]] | None = None,
    ) -> None:
        self.name = name
        self.dim = dim
        self.pixels = pixels
        self.preprocessing = str(pixels)
        self.weights_digest = weights_digest
        self.device = device
        self.precision = precision
        self.stages = stages or {}
        self._piece = LANE_IMAGES["convolutional" if convolutional else "transformer"]
        # Convolutions are two to three times as fast over pixels that lie channels last in memory.
        self._format = torch.channels_last if convolutional else torch.contiguous_format
        self.network: Any = network.eval().requires_grad_(False).to(device).to(memory_format=self._format)

    def preprocess(self, frames: Tensor) -> Tensor:
        return self.pixels.resize_and_crop(frames)

    def encode_images(self, images: Tensor) -> Tensor:
        return self.begin_images(images)()

    def begin_images(self, images: Tensor) -> Callable[[], Tensor]:
        lanes = torch.get_num_threads()
        clips = len(images) // self.frames_per_clip
        if self.device.type != "cpu" or clips < 2 * lanes:
            features = self._encode(images)
            return lambda: features
        size = min(max(1, self._piece // self.frames_per_clip), -(-clips // lanes)) * self.frames_per_clip
        pieces = [partial(self._encode, piece) for piece in images.split(size)]
        if lanes == 1:  # small pieces stay in the caches of one core too
            features = torch.cat([piece() for piece in pieces])
            return lambda: features
        begun = in_lanes(pieces)
        return lambda: torch.cat([piece.result() for piece in begun])

    def _encode(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            pixels = self.prepare(images)
            with autocast(self.device, self.precision):
                features = self.image_features(pixels)
        return _ordinary(features)

    def prepare(self, images: Tensor) -> Tensor:
        """Preprocessed frames uint8 [n, 3, S, S] -> normalised pixels float32 on the encoder's device."""
        return self.pixels.normalize(images.to(self.device)).contiguous(memory_format=self._format)

    def encode_text(self, texts: list[str]) -> Tensor:
        with torch.inference_mode(), autocast(self.device, self.precision):
            features = self.text_features(texts)
        return _ordinary(features)

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float32 [n * k, 3, S, S] on the encoder's device -> features [n, D] there."""

    def text_features(self, texts: list[str]) -> Tensor:
        """n texts -> features [n, D] on the encoder's device."""
        return super().encode_text(texts)  # says that there is no text side


def _ordinary(features: Tensor) -> Tensor:
    # The copy is made outside inference mode, so that autograd accepts it as the input of a trained network.
    return features.float().cpu().clone()


class TextEncoder(Protocol):
    """What a frozen text encoder offers; image encoders with a text side do, too.

    dim: width D of a text's vector. weights_digest: as in ImageEncoder.
    """

    name: str
    dim: int
    weights_digest: str

    def encode_text(self, texts: list[str]) -> Tensor:
        """n texts -> float32 [n, D] on the CPU."""
        ...
