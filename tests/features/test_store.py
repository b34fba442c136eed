from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors import safe_open

from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import read_header, write_features
from clipcap_video.files import natural_key
from clipcap_video.video.sampling import SamplingSpec
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


def test_hdf5_and_npy_hold_the_same(tmp_path: Path) -> None:
    features = {"video9": np.random.rand(28, 6).astype(np.float32), "video10": np.random.rand(2, 6).astype(np.float32)}
    (tmp_path / "npy").mkdir()
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        for name, array in features.items():
            file[name] = array
            np.save(tmp_path / "npy" / f"{name}.npy", array)
    for path in (tmp_path / "old.hdf5", tmp_path / "npy"):
        store = open_features(path)
        assert store.ids() == ["video9", "video10"]
        assert store.fingerprint is None
        for name, array in features.items():
            np.testing.assert_array_equal(store.load(name).features, array)
            assert store.load(name).timestamps is None
            assert store.shape(name).frames == len(array)


def test_numbers_in_ids_sort_by_value() -> None:
    ids = ["video10", "video9", "a", "video9b", "10", "9", "video"]
    assert sorted(ids, key=natural_key) == ["9", "10", "a", "video", "video9", "video9b", "video10"]


def test_fingerprint_survives_json_and_knows_its_like() -> None:
    made = fingerprint(sampling=SamplingSpec("head", 12), normalized=True)
    assert Fingerprint.from_json(made.to_json()) == made
    assert made.matches(replace(made, encoder="/elsewhere/tiny.pt"))
    for change in (
        {"weights": "sha256:1"},
        {"preprocessing": "x"},
        {"normalized": False},
        {"sampling": SamplingSpec()},
    ):
        assert not made.matches(replace(made, **change))


def test_features_of_another_encoder_are_refused_naming_both() -> None:
    other = fingerprint(encoder="ViT-B/32", weights="sha256:2")
    with pytest.raises(ClipcapError, match=r"in features/ are features of ViT-B/32 .*trained on features of tiny "):
        check_fingerprints(fingerprint(), other, "features/")
    # One difference is named alone, several with all that there is to know.
    more = fingerprint(sampling=SamplingSpec("fps", fps=2))
    said = (
        r"are features of frames taken fps all at 2 fps, but the model was trained on features of frames taken \w+ \d+;"
    )
    with pytest.raises(ClipcapError, match=said):
        check_fingerprints(fingerprint(), more, "features/")
    with pytest.raises(ClipcapError, match=r"are tiny \(.*normalised\), but the model was trained on tiny \("):
        check_fingerprints(fingerprint(), replace(more, normalized=True), "features/")
    check_fingerprints(fingerprint(), None, "old.hdf5")
    check_fingerprints(None, other, "features/")


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


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("missing", None, "no features at"),
        ("file.txt", b"x", "not a feature store"),
        ("bad.hdf5", b"x" * 100, "cannot read the HDF5 file"),
    ],
)
def test_what_is_no_store(tmp_path: Path, name: str, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipcapError, match=match):
        open_features(tmp_path / name)


def test_ids_without_features_and_odd_shapes(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match="no features for video 'video3'"):
        open_features(stored).load("video3")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["video1"] = np.zeros((28, 2, 3))
    with pytest.raises(ClipcapError, match=r"video1 have shape \[28, 2, 3\]"):
        open_features(tmp_path / "old.h5").load("video1")
