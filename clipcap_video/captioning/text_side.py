"""How well captions fit a video, by a model that reads both: a retrieval model, or the text side of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError, NoTextSide
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import BOXED
from clipcap_video.retrieval.heads import pool
from clipcap_video.retrieval.model import boxed_fingerprint, load_retrieval


@dataclass(frozen=True)
class TextSide:
    """A space in which captions and videos meet.

    key: tells one from another. scale: by which cosines become logits, in nats.
    embed_text: n texts -> unit vectors [n, D]. embed_videos: features [B, T, W], mask [B, T] bool -> the same [B, D].
    """

    key: str
    scale: float
    embed_text: Callable[[list[str]], Tensor]
    embed_videos: Callable[[Tensor, Tensor], Tensor]

    def fit(self, features: Tensor, mask: Tensor, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """The logits, `scale` times cosine, of the texts of B videos. features: [B, T, W]; mask: [B, T] bool."""
        with torch.autocast(features.device.type, enabled=False):
            videos = self.embed_videos(features.float(), mask)
            vectors = self.embed_text([text for row in texts for text in row]).split([len(row) for row in texts])
        return [(self.scale * row @ video).tolist() for row, video in zip(vectors, videos, strict=True)]


def load_text_side(
    model_dir: str | None,
    trained_on: Fingerprint | None,
    feature_dim: int,
    device: torch.device,
    encoder: Callable[[], ImageEncoder],
) -> TextSide:
    """The one for a captioner of frame features `feature_dim` wide, made as `trained_on` says.

    model_dir: a retrieval model; unless given, the one in the box where the features fit it, else the `encoder`.
    Raises ClipcapError when none reads texts, or the model does not fit.
    """
    boxed = boxed_fingerprint()
    if model_dir is None and boxed is not None and trained_on is not None and boxed.matches(trained_on):
        model_dir = str(BOXED)
    if model_dir is not None:
        return _of_model(model_dir, trained_on, feature_dim, device)
    if trained_on is None:
        raise ClipcapError("the captioner does not know its encoder; give a retrieval model with --rerank_model")
    return _of_encoder(encoder())


def _of_model(model_dir: str, trained_on: Fingerprint | None, feature_dim: int, device: torch.device) -> TextSide:
    model, info = load_retrieval(Path(model_dir))
    if not model.separable:
        raise ClipcapError(
            f"the model in {model_dir} has the head {model.config.sim_header}, which has no vector for a caption; "
            "train one with another --sim_header"
        )
    if info.fingerprint is not None and trained_on is not None and not info.fingerprint.matches(trained_on):
        its, ours = info.fingerprint.unlike(trained_on)
        raise ClipcapError(
            f"the model in {model_dir} reads features of {its}, and the captioner of {ours}; train one on those"
        )
    model.check_width(feature_dim)
    model.to(device)
    assert model.head.logit_scale is not None
    return TextSide(
        f"retrieval model {digest_weights(model)}",
        model.head.logit_scale.exp().item(),
        model.embed_text,
        lambda features, mask: pool(model.embed_frames(features, mask), mask.cpu()),
    )


def _of_encoder(encoder: ImageEncoder) -> TextSide:
    try:
        encoder.encode_text(["a"])
    except NoTextSide as error:
        raise ClipcapError(
            f"{error}; or make a model that reads texts for these features, with clipcap-video train-retrieval, and "
            "give it with --rerank_model"
        ) from None
    return TextSide(
        f"encoder {encoder.name} {encoder.weights_digest}",
        encoder.logit_scale,
        lambda texts: F.normalize(encoder.encode_text(texts), dim=-1),
        lambda features, mask: pool(F.normalize(features, dim=-1), mask).cpu(),
    )
