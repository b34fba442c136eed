"""An embedder that counts, videos of known features, and search by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipcap_video.features.base import VideoFeatures
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.search.index import SearchIndex, index_folder, unit, update_index
from tests.tiny import fingerprint

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
