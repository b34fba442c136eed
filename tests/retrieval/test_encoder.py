"""A retrieval model as an encoder of frames and of texts."""

from __future__ import annotations

from pathlib import Path

import torch

from clipcap_video.encoders import load_encoder
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.retrieval.model import load_retrieval
from tests.retrieval.conftest import CPU


def test_an_encoder_of_a_retrieval_model_is_its_two_sides(space: ImageEncoder) -> None:
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    model, info = load_retrieval(Path(space.name.removeprefix("retrieval:")))
    assert info.fingerprint is not None
    frames = load_encoder(info.fingerprint.encoder, CPU).encode_images(images)
    mask = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(space.encode_images(images), model.embed_frames(frames[None], mask)[0])
    torch.testing.assert_close(space.encode_text(["a dog"]), model.embed_text(["a dog"]))
