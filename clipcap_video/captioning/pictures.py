"""Videos that a caller holds in memory, arrays and PIL images, as what the encoder takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import VideoFeatures
from clipcap_video.features.encode import encode_frames, whole_clips
from clipcap_video.video.sampling import SamplingSpec, choose, middle_frames
from clipcap_video.video.segments import SegmentFrames

if TYPE_CHECKING:
    from PIL.Image import Image

    Video: TypeAlias = str | Path | np.ndarray | Tensor | Image
else:
    Video = object  # PIL is not imported for its name alone


def is_one_video(value: Any) -> bool:
    """Whether a value is a video by itself: a path, an array or an image. Any other sequence is several of them."""
    return isinstance(value, str | Path) or hasattr(value, "shape") or hasattr(value, "convert")


def encode_segments(encoder: ImageEncoder, segments: Sequence[SegmentFrames], normalize: bool) -> list[VideoFeatures]:
    """The features of each segment, encoded together, in the precision of stored ones."""
    clip = encoder.frames_per_clip
    images = torch.cat([whole_clips(segment.images, clip) for segment in segments])  # [n, 3, S, S]
    encoded = [encode_frames(encoder, part, normalize) for part in images.split(max(1, 128 // clip) * clip)]
    features = torch.cat(encoded).half().float().numpy()
    times = [segment.timestamps[middle_frames(len(segment.images), clip)] for segment in segments]
    parts = np.split(features, np.cumsum([len(part) for part in times])[:-1])
    return [VideoFeatures(part, when) for part, when in zip(parts, times, strict=True)]


def sampled_frames(video: Any, spec: SamplingSpec, preprocess: Callable[[Tensor], Tensor]) -> SegmentFrames:
    """The frames of a video in memory that the encoder is to see.

    video: uint8 RGB [T, H, W, 3] (one picture: [H, W, 3]) as an array or tensor, a PIL image, or a list of these, one
    a frame. They count as a second apart, which only a spec with `fps` looks at.
    Raises ClipcapError for anything else.
    """
    frames = [frame for part in ([video] if is_one_video(video) else video) for frame in _frames(part)]
    if not frames:
        raise ClipcapError("a video without a frame cannot be captioned; give one frame at least")
    times = np.arange(len(frames), dtype=np.float64)
    chosen = choose(spec, times)
    images = [preprocess(torch.from_numpy(frames[index]).permute(2, 0, 1)[None]) for index in chosen.tolist()]
    return SegmentFrames(0.0, float(len(frames)), times[chosen], torch.cat(images))


def _frames(part: Any) -> Sequence[np.ndarray]:
    """uint8 RGB [H, W, 3] each."""
    if hasattr(part, "convert"):  # a PIL image, of whatever mode
        return [np.array(part.convert("RGB"))]
    array = np.ascontiguousarray(part.cpu().numpy() if isinstance(part, Tensor) else part)
    array = array[None] if array.ndim == 3 else array
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape[1:]:
        raise ClipcapError(
            f"frames of type {array.dtype} and shape {list(array.shape)} are no video; give uint8 RGB of shape "
            "[frames, height, width, 3]"
        )
    return list(array)
