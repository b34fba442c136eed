"""Captions without videos as training data: the embedding of each is its one frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError, NoTextSide
from clipcap_video.features.base import FeatureShape, FeatureStore, VideoFeatures
from clipcap_video.features.encode import fitting_encoder
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.mapping.joint import JointMapping
from clipcap_video.training.texts import embed_once


class CaptionStore(FeatureStore):
    """Captions as videos of one frame, by their numbers. vectors: float16 [n, D], by `encoder`."""

    def __init__(self, path: Path, fingerprint: Fingerprint | None, vectors: Tensor, encoder: ImageEncoder) -> None:
        self.path, self.fingerprint, self.vectors, self.encoder = path, fingerprint, vectors, encoder

    def ids(self) -> list[str]:
        return [str(number) for number in range(len(self.vectors))]

    def file(self, video_id: str) -> Path:
        return self.path

    def shape(self, video_id: str) -> FeatureShape:
        return FeatureShape(1, self.vectors.shape[1])

    def load(self, video_id: str) -> VideoFeatures:
        return VideoFeatures(self.vectors[int(video_id), None].float().numpy(), None)


def caption_videos(
    store: FeatureStore, records: Sequence[VideoRecord], device: torch.device, precision: str
) -> tuple[CaptionStore, list[VideoRecord]]:
    """Each different caption of the records as a video of its own, embedded by the encoder of the features in `store`.

    Raises ClipcapError when that encoder is not known, or has no text side.
    """
    encoder = fitting_encoder(_fingerprint(store), device, precision)
    origins = {caption: record.origin for record in reversed(records) for caption in record.captions}
    captions = list(dict.fromkeys(caption for record in records for caption in record.captions))
    vectors = _embedded(encoder, captions)
    videos = [
        VideoRecord(str(number), "train", [caption], origin=origins[caption]) for number, caption in enumerate(captions)
    ]
    return CaptionStore(store.path, store.fingerprint, vectors, encoder), videos


def _fingerprint(store: FeatureStore) -> Fingerprint:
    if store.fingerprint is None:
        raise ClipcapError(f"{store.path} does not say which encoder made it; --text_only needs features that do")
    return store.fingerprint


def _embedded(encoder: ImageEncoder, captions: list[str]) -> Tensor:
    try:
        return F.normalize(embed_once(encoder, captions).float(), dim=-1).half()
    except NoTextSide as error:
        raise ClipcapError(f"{error}, or one of train-retrieval (--encoder retrieval:FOLDER)") from None


def fill_memory(model: CaptionModel, store: FeatureStore, seed: int) -> None:
    """Puts as many of the captions as there is room for into the model's memory, drawn at random."""
    mapping = model.get_submodule("mapping")
    assert isinstance(mapping, JointMapping)
    assert isinstance(store, CaptionStore)
    size, vectors = len(mapping.memory), store.vectors
    if size > len(vectors):
        raise ClipcapError(f"--text_memory {size} is more than the {len(vectors):,} different captions; give fewer")
    drawn = np.random.default_rng(seed).permutation(len(vectors))[:size]
    mapping.scale.fill_(store.encoder.logit_scale)
    mapping.memory.copy_(F.normalize(vectors[np.sort(drawn)].float(), dim=-1))
