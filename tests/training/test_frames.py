"""Frames in the place of features, for a run that trains its encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.frames import FrameStore, open_frames
from clipcap_video.video.files import find_videos
from tests import clips
from tests.features.conftest import SPEC, GridEncoder
from tests.tiny import features_of


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "videos").mkdir()
    for number, frames in enumerate([9, 21, 13]):
        clips.write_clip(tmp_path / "videos" / f"video{number}.avi", frames, first=100 * number)
    return find_videos(tmp_path / "videos")


def test_frames_are_those_that_the_features_were_made_of(tmp_path: Path, videos: dict[str, Path]) -> None:
    encoder = GridEncoder()
    extract(videos, encoder, SPEC, tmp_path / "features", progress=False)
    features = open_features(tmp_path / "features")
    there = {name: videos[name] for name in ("video2", "video1")}
    store = FrameStore(features, {**there, "stranger": videos["video0"]}, encoder)
    assert store.ids() == ["video1", "video2"]
    for name, pixels in zip(store.ids(), store.load_many(store.ids()), strict=True):
        stored = features.load(name)
        assert store.shape(name).frames == len(pixels.features)
        assert (pixels.features.dtype, pixels.features.shape[1:]) == (np.uint8, (3, 24, 24))
        again = encoder.encode_images(encoder.preprocess(torch.from_numpy(pixels.features)))
        np.testing.assert_allclose(again.numpy(), stored.features, atol=0.1)
        np.testing.assert_array_equal(pixels.timestamps, stored.timestamps)


def test_features_that_do_not_say_how_they_were_made_are_refused(tmp_path: Path, videos: dict[str, Path]) -> None:
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "video0.npy", features_of(0))
    config = TrainConfig(data=tmp_path / "npy", videos=[tmp_path / "videos"], model="lstm", train_encoder="all")
    with pytest.raises(ClipcapError, match=r"do not say which encoder made them of which frames.*--train_encoder head"):
        open_frames(config, open_features(tmp_path / "npy"))
