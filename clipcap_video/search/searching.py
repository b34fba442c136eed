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

from clipcap_video import console
from clipcap_video.devices import pick_device, pick_precision
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError, NoTextSide, VideoError
from clipcap_video.features.base import FeatureStore, VideoFeatures, stack_features, thin_frames
from clipcap_video.features.encode import encode_videos, fitting_encoder
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.features.layouts import open_features
from clipcap_video.files import BOXED
from clipcap_video.search.index import SearchIndex, fresh_index, mean_vector, unit, update_index
from clipcap_video.search.index import index_folder as default_folder
from clipcap_video.search.ivf import LEAST_FRAMES, IvfIndex, Queries, fresh_ivf, require_faiss, update_ivf
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

    model_dir: a trained retrieval model; without it, the features' own encoder reads the texts, and of features as the
        starter captioner's, the model in the box.
    index_folder: where the index lies, if not beside the features.
    ivf: among a million frames and more, compare the query with candidates alone; see `ivf.py`.
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
        ivf: bool = False,
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
        self._boxed: VideoSearch | None = None
        self._ivf = require_faiss() is not None if ivf else False
        self._index: SearchIndex | IvfIndex | None = None
        if self._ivf:
            self._index = fresh_ivf(self.features, self._embedder, self._index_folder)
        self._index = self._index or fresh_index(self.features, self._embedder, self._index_folder)
        self._store = None if self._index is not None else open_features(self.features)
        self.fingerprint = (self._index or self._store).fingerprint  # type: ignore[union-attr]  # one is there
        check_fingerprints(self._embedder.fingerprint, self.fingerprint, self.features)

    @property
    def index(self) -> SearchIndex | IvfIndex:
        """The vectors that are searched."""
        if self._index is None:
            store = self._store or open_features(self.features)
            if self._ivf and _has_frames(store, LEAST_FRAMES):
                self._index = update_ivf(
                    store, self._embedder, self._index_folder, self._queries, console.say, progress=self._progress
                )
            else:
                self._index = update_index(store, self._embedder, self._index_folder, progress=self._progress)
        return self._index

    def _search(self, query: np.ndarray, top: int, rank_by: str, without: str | None = None) -> list[SearchHit]:
        if isinstance(self.index, IvfIndex):
            return self.index.search(query, top, rank_by, without)
        return search(self.index, query, top, rank_by, without)

    def _queries(self) -> Queries:
        """What an index is made for: texts like those of people, of which half are held out."""
        texts = sentences()
        try:
            vectors = np.stack([self._text_vector(text) for text in texts])
            kind = "texts"
        except ClipcapError:  # nothing reads texts here
            store = open_features(self.features)
            rng = np.random.default_rng(0)
            ids = store.ids()
            drawn = rng.choice(len(ids), min(len(ids), len(texts)), replace=False)
            vectors = np.stack([self._mean_of(store.load(ids[number])) for number in drawn])
            kind = "videos, for nothing reads texts for these features"
        vectors = unit(vectors)
        return Queries(vectors[::2], vectors[1::2], kind)

    def by_text(self, text: str, top: int = 10, rank_by: str = "moment") -> list[SearchHit]:
        """The videos that match a text best. Raises ClipcapError when nothing can read texts for these features."""
        if not text.strip():
            raise ClipcapError("the text to search for is empty; say what the videos should show")
        if self._reads_in_box():
            return self._in_box().by_text(text, top, rank_by)
        query = self._text_vector(text)
        if len(query) != self.index.dim:
            raise ClipcapError(
                f"texts of encoder {self.encoder.name} are {len(query)} wide and the features in {self.features} "
                f"{self.index.dim}; name the encoder that made them"
            )
        return self._search(query, top, rank_by)

    def _reads_in_box(self) -> bool:
        """Whether the model in the box reads texts for these features, whose own encoder does not."""
        if not isinstance(self._embedder, PlainEmbedder) or self._encoder_name is not None or self.fingerprint is None:
            return False
        from clipcap_video.retrieval.model import boxed_fingerprint

        trained_on = boxed_fingerprint()
        return trained_on is not None and trained_on.matches(self.fingerprint)

    def _in_box(self) -> VideoSearch:
        if self._boxed is None:
            self._boxed = VideoSearch(
                self.features, BOXED, index_folder=self._index_folder, device=str(self.device),
                progress=self._progress, ivf=self._ivf,
            )  # fmt: skip
        return self._boxed

    def by_video(self, video: str | Path, top: int = 10, rank_by: str = "moment") -> list[SearchHit]:
        """The videos most like another: a file, or the id of one in the features, which is then left out itself."""
        path = Path(video)
        if path.is_file():
            return self._search(self._mean_of(self._read_video(path)), top, rank_by)
        video_id = str(video)
        query = _vector_of(self.index, video_id)
        if query is None:
            raise ClipcapError(f"{video} is neither a video file nor the id of a video in {self.features}; check it")
        return self._search(query, top, rank_by, without=video_id)

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
                f"{error}; or make a model that reads texts for these features, with clipcap-video train-retrieval "
                f"--features {self.features} --annotations FILE --out out_retrieval/, and search with --model_dir "
                "out_retrieval/"
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


def sentences() -> list[str]:
    """A few hundred texts as people search for videos, in an order without order."""
    subjects = (
        "a man", "a woman", "two children", "a dog", "a group of people", "a cat", "a girl", "an old man", "a band",
        "a chef", "a cartoon character", "a car", "soccer players", "a news anchor", "a bird",
    )  # fmt: skip
    actions = (
        "riding a horse", "playing the guitar", "cooking in a kitchen", "dancing", "running along a beach", "talking",
        "swimming", "driving on a road", "jumping over a fence", "playing a video game", "eating at a table", "singing",
        "showing how to fold paper", "walking through a city", "fighting", "playing with a ball", "applying makeup",
        "sitting on a couch", "flying over mountains", "opening a box",
    )  # fmt: skip
    texts = [f"{subject} {action}" for subject in subjects for action in actions]
    texts += [f"{subject} is {action} at night" for subject in subjects for action in actions]
    return [texts[number] for number in np.random.default_rng(0).permutation(len(texts))]


def _has_frames(store: FeatureStore, least: int) -> bool:
    total = 0
    for video_id in store.ids():
        total += store.shape(video_id).frames
        if total >= least:
            return True
    return False


def _vector_of(index: SearchIndex | IvfIndex, video_id: str) -> np.ndarray | None:
    if isinstance(index, IvfIndex):
        return index.vector_of(video_id)
    return index.videos[index.ids.index(video_id)] if video_id in index.ids else None


def _load_embedder(model_dir: Path, device: torch.device) -> ModelEmbedder:
    from clipcap_video.retrieval.model import load_retrieval

    model, info = load_retrieval(model_dir)
    if not model.separable:
        raise ClipcapError(
            f"the model in {model_dir} has the head {model.config.sim_header}, which looks at each pair of text and "
            "video anew and so cannot search an index; train one with another --sim_header"
        )
    return ModelEmbedder(model.to(device), info.fingerprint)
