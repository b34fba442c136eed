"""An embedder that counts, videos of known features, and search by brute force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.devices import pick_device
from clipcap_video.encoders import load_encoder
from clipcap_video.features.base import VideoFeatures
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.models.checkpoint import CheckpointInfo
from clipcap_video.retrieval.model import RetrievalConfig, RetrievalModel, save_retrieval
from clipcap_video.search.index import SearchIndex, index_folder, unit, update_index
from tests.clips import write_clip
from tests.commands import run
from tests.tiny import fingerprint
from tests.tiny_clip import EMBED_DIM, save_tiny_clip

TEXT = "a man riding a horse"

DIM = 24


class Counting:
    """Features as they are; remembers how many videos it was asked for."""

    key = "counting"
    fingerprint: Fingerprint | None = None
    max_frames: int | None = None

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, videos: Sequence[VideoFeatures]) -> list[np.ndarray]:
        self.embedded += len(videos)
        return [unit(video.features) for video in videos]


def features_of(number: int) -> np.ndarray:
    """Frames [T, DIM] around one direction a video; T varies, and some videos are equal to others."""
    rng = np.random.default_rng(number % 50)
    frames = 1 + number % 50 % 7
    return (rng.normal(size=DIM) + rng.normal(size=(frames, DIM))).astype(np.float16)


def write_videos(folder: Path, numbers: Sequence[int]) -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        features = features_of(number)
        write_features(folder, f"video{number}", features, np.arange(len(features)) * 0.5, fingerprint())
    return folder


def update(folder: Path, embedder: Counting | None = None) -> SearchIndex:
    store = open_features(folder)
    return update_index(store, embedder or Counting(), index_folder(folder), progress=False)


def arrays_of(file: Path) -> dict[str, np.ndarray]:
    """What the file holds, as NumPy reads it."""
    with file.open("rb") as stream:
        vectors, offsets, times, stamps, about = (np.load(stream) for _ in range(5))
        assert not stream.read()
    frames, videos = vectors[: offsets[-1]], vectors[offsets[-1] :]
    return {
        "frames": frames, "videos": videos, "offsets": offsets, "times": times, "stamps": stamps, "about": about
    }  # fmt: skip


@dataclass(frozen=True)
class Library:
    videos: Path
    features: Path
    clip: Path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("library")
    made = Library(folder / "videos", folder / "features", folder / "tiny-clip.pt")
    made.videos.mkdir()
    for number in range(12):
        write_clip(made.videos / f"video{number}.mp4", frames=20 + 3 * number, first=311 * number)
    save_tiny_clip(made.clip)
    done = run(
        "extract_features.py", "--videos", made.videos, "--out", made.features, "--encoder", made.clip,
        "--frames", "5", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


def find(library: Library, *options: object) -> list[dict]:
    done = run("clipcap-video", "search", "--features", library.features, "--device", "cpu", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"]


def retrieval_model(library: Library, folder: Path, sim_header: str) -> Path:
    """A random model over the features with tiny CLIP's text tower, as training leaves it."""
    encoder = load_encoder(str(library.clip), pick_device("cpu"))
    config = RetrievalConfig(
        sim_header, dim=16, feature_dim=EMBED_DIM, text_dim=EMBED_DIM, project=True, num_layers=1, num_heads=2,
        max_frames=3, text_encoder=str(library.clip), text_digest=encoder.weights_digest,
    )  # fmt: skip
    torch.manual_seed(0)
    info = CheckpointInfo(fingerprint=open_features(library.features).fingerprint)
    save_retrieval(folder, RetrievalModel(config).eval(), info)
    return folder
