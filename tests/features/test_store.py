from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors import safe_open

from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import read_header, write_features
from tests.tiny import fingerprint


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, frames in (("video2", 3), ("video10", 5)):
        write_features(tmp_path, name, rng.normal(size=(frames, 4)), np.arange(frames) * 0.5, fingerprint())
    return tmp_path


def test_the_file_is_as_documented(stored: Path) -> None:
    with safe_open(stored / "video2.safetensors", framework="numpy") as file:
        features, timestamps = file.get_tensor("features"), file.get_tensor("timestamps")
        metadata = json.loads(file.metadata()["fingerprint"])
    assert (features.dtype, features.shape) == (np.float16, (3, 4))
    assert (timestamps.dtype, timestamps.tolist()) == (np.float32, [0.0, 0.5, 1.0])
    assert metadata["encoder"] == "tiny"
    assert metadata["sampling"]["sampling"] == "uniform"


def test_what_was_written_is_read(stored: Path) -> None:
    store = open_features(stored)
    assert store.ids() == ["video2", "video10"]
    assert "video2" in store
    assert "video3" not in store
    assert store.fingerprint == fingerprint()
    assert (store.shape("video10").frames, store.shape("video10").dim) == (5, 4)
    video = store.load("video10")
    assert video.features.dtype == np.float32
    assert video.timestamps is not None
    assert video.timestamps.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no fingerprint"])
def test_a_damaged_file_is_named(stored: Path, damage: str) -> None:
    file = stored / "video10.safetensors"
    whole = file.read_bytes()
    if damage == "no fingerprint":
        from safetensors.numpy import save_file

        save_file({"features": np.zeros((2, 4), np.float16)}, file)
    else:
        file.write_bytes({"cut": whole[:-3], "empty": b"", "text": b"not features at all"}[damage])
    with pytest.raises(ClipcapError, match=r"cannot read the features .*video10\.safetensors"):
        read_header(file)
    with pytest.raises(ClipcapError, match=r"video10\.safetensors"):
        open_features(stored).load("video10")


def test_a_write_that_fails_leaves_the_old_file(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (stored / "video2.safetensors").read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_features(stored, "video2", np.zeros((1, 4)), np.zeros(1), fingerprint())
    assert (stored / "video2.safetensors").read_bytes() == before
    assert sorted(path.name for path in stored.iterdir()) == ["video10.safetensors", "video2.safetensors"]


def test_ids_without_features_and_odd_shapes(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match="no features for video 'video3'"):
        open_features(stored).load("video3")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["video1"] = np.zeros((28, 2, 3))
    with pytest.raises(ClipcapError, match=r"video1 have shape \[28, 2, 3\]"):
        open_features(tmp_path / "old.h5").load("video1")
