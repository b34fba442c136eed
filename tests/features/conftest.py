"""An encoder whose features tell the number of a frame, and videos of numbered frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.video.files import find_videos
from clipcap_video.video.sampling import SamplingSpec
from tests import clips

SPEC = SamplingSpec("fps", fps=5)


class GridEncoder(ImageEncoder):
    """Features are the brightnesses of the 12 blocks, so that the features tell the frame's number."""

    name = "grid"
    dim = 12
    preprocessing = "24 x 24 by averaging"
    weights_digest = "sha256:0"
    device = torch.device("cpu")
    precision = "fp32"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def preprocess(self, frames: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(frames.float(), (24, 24)).to(torch.uint8)

    def encode_images(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 24, 24)
        assert images.dtype == torch.uint8
        self.batches.append(len(images))
        return clips.grid(images)


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    for index, frames in enumerate([31, 1, 12, 4, 57, 20]):
        clips.write_clip(folder / f"video{index}.avi", frames, first=100 * index)
    return find_videos(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
