"""Frames in the place of frame features, for a run that trains the encoder along."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clipcap_video.devices import pick_device
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureShape, FeatureStore, VideoFeatures
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.training.config import TrainConfig
from clipcap_video.video.files import find_all_videos

# Threads that decode the videos of a batch, each a whole one.
WORKERS = 4


class FrameStore(FeatureStore):
    """The same videos and frames as in a store of features, read from the video files anew each time.

    videos: id -> path; encoder: the one that made the features.
    `load` gives pixels, uint8 [T, 3, S, S], as `encoder.preprocess` makes them; shapes are those of the features.
    """

    def __init__(self, features: FeatureStore, videos: dict[str, Path], encoder: ImageEncoder) -> None:
        assert features.fingerprint is not None
        self.path = features.path
        self.fingerprint: Fingerprint = features.fingerprint
        self.encoder = encoder
        self._features = features
        self._videos = videos

    def ids(self) -> list[str]:
        return [video_id for video_id in self._features.ids() if video_id in self._videos]

    def shape(self, video_id: str) -> FeatureShape:
        return self._features.shape(video_id)

    def file(self, video_id: str) -> Path:
        return self._videos[video_id]

    def load(self, video_id: str) -> VideoFeatures:
        # What decodes videos takes a tenth of a second to import, and most runs are on features.
        from clipcap_video.video.reader import SampledVideo

        spec, preprocess = self.fingerprint.sampling, self.encoder.preprocess
        chunks = list(SampledVideo(self._videos[video_id], spec, preprocess, threads=1))
        images = np.concatenate([chunk.images.numpy() for chunk in chunks])
        return VideoFeatures(images, np.concatenate([chunk.timestamps for chunk in chunks]).astype(np.float32))

    def load_many(self, video_ids: Sequence[str]) -> list[VideoFeatures]:
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(self.load, video_ids))


def open_frames(config: TrainConfig, features: FeatureStore) -> FrameStore:
    """The videos at --videos that have features in --features, and the encoder of those.

    Raises ClipcapError when the features do not say how they were made, or no video is there.
    """
    from clipcap_video.features.encode import fitting_encoder

    fingerprint = features.fingerprint
    if fingerprint is None:
        raise ClipcapError(
            f"the features in {features.path} do not say which encoder made them of which frames, so it cannot be "
            "trained; extract them with extract_features.py, or use --train_encoder head"
        )
    assert config.videos is not None
    videos = find_all_videos(config.videos)
    encoder = fitting_encoder(fingerprint, pick_device(config.device), "fp32", weights=config.encoder_weights)
    store = FrameStore(features, videos, encoder)
    missing = [video_id for video_id in features.ids() if video_id not in videos]
    if not store.ids():
        raise ClipcapError(
            f"none of the videos with features in {features.path}, e.g. {missing[0]!r}, is in "
            f"{', '.join(map(str, config.videos))}; give the folder of those videos with --videos"
        )
    if missing:
        count = f"{len(missing):,} videos with features"
        print(f"{count}, e.g. {missing[0]}, are not in --videos: left out", file=sys.stderr)
    return store
