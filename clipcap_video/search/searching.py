"""A search from words or a video file to ranked videos: who embeds the query, and who embedded the frames.

>>> videos = VideoSearch("features/")                         # doctest: +SKIP
>>> for hit in videos.by_text("a man riding a horse"):
...     print(hit.video, hit.score, hit.time)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from clipcap_video.devices import pick_device, pick_precision
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError, NoTextSide, VideoError
from clipcap_video.features.base import VideoFeatures, stack_features, thin_frames
from clipcap_video.features.encode import encode_videos, fitting_encoder
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.features.layouts import open_features
from clipcap_video.search.index import SearchIndex, fresh_index, mean_vector, unit, update_index
from clipcap_video.search.index import index_folder as default_folder
from clipcap_video.search.ranking import SearchHit, search

if TYPE_CHECKING:
    from clipcap_video.retrieval.model import RetrievalModel


class PlainEmbedder:
    """Frame features as they are: those of CLIP and its like live in one space with its texts."""

    key = "plain"
    fingerprint: Fingerprint | None = None
    max_frames: int | None = None

    def embed(self, videos: Sequence[VideoFeatures]) -> list[np.ndarray]:
        return [unit(video.features) for video in videos]


class ModelEmbedder:
    """Frames as a trained retrieval model sees them."""

    def __init__(self, model: RetrievalModel, fingerprint: Fingerprint | None) -> None:
        self.model = model
        self.fingerprint = fingerprint
        self.max_frames: int | None = model.config.max_frames
        frame_part = torch.nn.ModuleList([model.frame_projection, model.head])
        digest = digest_weights(frame_part).removeprefix("sha256:")
        self.key = f"{model.config.sim_header}-{model.config.max_frames}-{digest}"

    def embed(self, videos: Sequence[VideoFeatures]) -> list[np.ndarray]:
        features, mask = stack_features([video.features for video in videos])
        vectors = self.model.embed_frames(features, mask).numpy()
        return [rows[: len(video.features)] for rows, video in zip(vectors, videos, strict=True)]


class VideoSearch:
    """Searches one feature store; it may be asked many times.

    model_dir: a trained retrieval model; without it, the features' own encoder reads the texts.
    index_folder: where the index lies, if not beside the features.
    encoder, encoder_weights: where the features' encoder is, if not where they say.
    The index is made or brought up to date by the first search, once its query is understood.
    Raises ClipcapError when something is missing or does not fit.
    """

    def __init__(
        self,
        features: str | Path,
        model_dir: str | Path | None = None,
        *,
        index_folder: Path | None = None,
        encoder: str | None = None,
        encoder_weights: Path | None = None,
        device: str = "auto",
        progress: bool = True,
    ) -> None:
        self.features = Path(features)
        self.device = pick_device(device)
        self._embedder: PlainEmbedder | ModelEmbedder = PlainEmbedder()
        if model_dir is not None:
            self._embedder = _load_embedder(Path(model_dir), self.device)
        self._encoder_name = encoder
        self._encoder_weights = encoder_weights
        self._encoder: ImageEncoder | None = None
        self._progress = progress
        self._index_folder = index_folder or default_folder(self.features)
        self._index = fresh_index(self.features, self._embedder, self._index_folder)
        self._store = None if self._index is not None else open_features(self.features)
        self.fingerprint = (self._index or self._store).fingerprint  # type: ignore[union-attr]  # one is there
        check_fingerprints(self._embedder.fingerprint, self.fingerprint, self.features)

    @property
    def index(self) -> SearchIndex:
        """The vectors that are searched."""
        if self._index is None:
            store = self._store or open_features(self.features)
            self._index = update_index(store, self._embedder, self._index_folder, progress=self._progress)
        return self._index

    def by_text(self, text: str, top: int = 10, rank_by: str = "moment") -> list[SearchHit]:
        """The videos that match a text best. Raises ClipcapError when nothing can read texts for these features."""
        if not text.strip():
            raise ClipcapError("the text to search for is empty; say what the videos should show")
        query = self._text_vector(text)
        if len(query) != self.index.dim:
            raise ClipcapError(
                f"texts of encoder {self.encoder.name} are {len(query)} wide and the features in {self.features} "
                f"{self.index.dim}; name the encoder that made them"
            )
        return search(self.index, query, top, rank_by)

    def by_video(self, video: str | Path, top: int = 10, rank_by: str = "moment") -> list[SearchHit]:
        """The videos most like another: a file, or the id of one in the features, which is then left out itself."""
        path = Path(video)
        if path.is_file():
            query = self._mean_of(self._read_video(path))
            return search(self.index, query, top, rank_by)
        video_id = str(video)
        if video_id not in self.index.ids:
            raise ClipcapError(f"{video} is neither a video file nor the id of a video in {self.features}; check it")
        # The index holds the same vector.
        query = self.index.videos[self.index.ids.index(video_id)]
        return search(self.index, query, top, rank_by, without=video_id)

    @property
    def encoder(self) -> ImageEncoder:
        """The encoder that made the features; loaded when first needed."""
        if self._encoder is None:
            if self.fingerprint is None and self._encoder_name is None:
                raise ClipcapError(
                    f"the features in {self.features} do not say which encoder made them; name it with --encoder, or "
                    "give a retrieval model trained on them with --model_dir"
                )
            precision = pick_precision(self.device, "auto")
            self._encoder = fitting_encoder(
                self.fingerprint, self.device, precision, self._encoder_name, self._encoder_weights
            )
        return self._encoder

    def _text_vector(self, text: str) -> np.ndarray:
        if isinstance(self._embedder, ModelEmbedder):
            return self._embedder.model.embed_text([text])[0].numpy()
        try:
            return self.encoder.encode_text([text])[0].numpy()
        except NoTextSide as error:
            raise ClipcapError(
                f"{error}, or give a retrieval model that was trained on these features with --model_dir"
            ) from None

    def _mean_of(self, video: VideoFeatures) -> np.ndarray:
        if self._embedder.max_frames is not None:
            video = thin_frames(video, self._embedder.max_frames)
        return mean_vector(self._embedder.embed([video])[0])

    def _read_video(self, path: Path) -> VideoFeatures:
        """Features of a video file, made as those in the store were."""
        fingerprint = self.fingerprint
        if fingerprint is None:
            raise ClipcapError(
                f"the features in {self.features} do not say how they were made, so {path} cannot be compared with "
                "them; give the id of a video that is among them"
            )
        ((_, video),) = encode_videos(
            {"query": path}, self.encoder, fingerprint.sampling, normalize=fingerprint.normalized
        )
        if isinstance(video, VideoError):
            raise video
        features = video.features.astype(np.float16).astype(np.float32)  # in the precision of stored ones
        return VideoFeatures(features, video.timestamps)


def _load_embedder(model_dir: Path, device: torch.device) -> ModelEmbedder:
    from clipcap_video.retrieval.model import load_retrieval

    model, info = load_retrieval(model_dir)
    if not model.separable:
        raise ClipcapError(
            f"the model in {model_dir} has the head {model.config.sim_header}, which looks at each pair of text and "
            "video anew and so cannot search an index; train one with another --sim_header"
        )
    return ModelEmbedder(model.to(device), info.fingerprint)
