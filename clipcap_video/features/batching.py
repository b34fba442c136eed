"""Features of several videos as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipcap_video.features.base import VideoFeatures


def stack_features(videos: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Pads features [T_i, D] of several videos to the longest -> features [B, T, D] float32, mask [B, T] bool.

    Pixels of frames, uint8 [T_i, 3, S, S], are padded in the same way and stay uint8.
    """
    longest = max(len(video) for video in videos)
    dtype = np.uint8 if videos[0].dtype == np.uint8 else np.float32
    features = torch.from_numpy(np.zeros((len(videos), longest, *videos[0].shape[1:]), dtype))
    mask = torch.zeros(len(videos), longest, dtype=torch.bool)
    for row, video in enumerate(videos):
        features[row, : len(video)] = torch.from_numpy(np.asarray(video, dtype=dtype))
        mask[row, : len(video)] = True
    return features, mask


def thin_frames(video: VideoFeatures, max_frames: int) -> VideoFeatures:
    """At most `max_frames` frames, evenly spread over the video."""
    count = len(video.features)
    if count <= max_frames:
        return video
    keep = np.linspace(0, count - 1, max_frames).round().astype(int)
    times = None if video.timestamps is None else video.timestamps[keep]
    return VideoFeatures(video.features[keep], times)
