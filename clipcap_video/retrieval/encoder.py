"""A retrieval model as an encoder, `retrieval:FOLDER`: features in the space where its frames and texts meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError
from clipcap_video.features.encode import fitting_encoder
from clipcap_video.files import BOXED
from clipcap_video.retrieval.model import RetrievalModel, load_retrieval

FORM = "retrieval:"
# The head that sees each frame by itself.
FRAME_BY_FRAME = "meanP"


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> RetrievalEncoder:
    """The encoder `retrieval:FOLDER`, or `retrieval:starter` of the model in the box.

    weights: of the image encoder that the model was trained on. Raises ClipcapError when it cannot encode frames alone.
    """
    source = name.removeprefix(FORM)
    model, info = load_retrieval(BOXED if source == "starter" else Path(source).expanduser())
    if model.clip is not None or model.config.sim_header != FRAME_BY_FRAME:
        raise ClipcapError(
            f"{source} does not see each frame by itself, so it cannot encode them; train one on stored features with "
            f"--sim_header {FRAME_BY_FRAME}"
        )
    if info.fingerprint is None:
        raise ClipcapError(f"{source} does not say which encoder its features are of; train it on features that do")
    return RetrievalEncoder(name, model.to(device), fitting_encoder(info.fingerprint, device, precision, None, weights))


class RetrievalEncoder(ImageEncoder):
    """Frames through the encoder that the model was trained on, then to its joint space, at unit length."""

    def __init__(self, name: str, model: RetrievalModel, frames: ImageEncoder) -> None:
        self.name, self.model, self.frames = name, model, frames
        self.dim, self.device, self.precision = model.config.dim, frames.device, frames.precision
        self.preprocessing, self.frames_per_clip = frames.preprocessing, frames.frames_per_clip
        parts = torch.nn.ModuleList([model.frame_projection, model.text_projection])
        self.weights_digest = digest_weights(parts)
        assert model.head.logit_scale is not None
        self.logit_scale = model.head.logit_scale.exp().item()

    def preprocess(self, frames: Tensor) -> Tensor:
        return self.frames.preprocess(frames)

    def encode_images(self, images: Tensor) -> Tensor:
        return self.begin_images(images)()

    def begin_images(self, images: Tensor) -> Callable[[], Tensor]:
        begun = self.frames.begin_images(images)
        return lambda: self.project(begun())

    def project(self, features: Tensor) -> Tensor:
        """Features [n, W] of the encoder that the model was trained on -> [n, D]."""
        return self.model.embed_frames(features[None], torch.ones(1, len(features), dtype=torch.bool))[0]

    def encode_text(self, texts: list[str]) -> Tensor:
        return self.model.embed_text(texts)
