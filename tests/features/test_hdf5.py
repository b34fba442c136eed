"""HDF5 files of features, as the MSR-VTT ClipCap program has them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.features.hdf5 import check_replaceable, write_hdf5
from clipcap_video.features.layouts import open_features
from tests.tiny import fingerprint, write_feature_folder


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


def test_a_file_is_replaced_where_nothing_is_lost_by_it(tmp_path: Path) -> None:
    store = open_features(write_feature_folder(tmp_path / "features", range(3)))
    out = tmp_path / "f.hdf5"
    check_replaceable(out, [])
    assert write_hdf5(store, out) == 3
    assert open_features(out).fingerprint == fingerprint()
    check_replaceable(out, store.ids())
    with pytest.raises(ClipcapError, match="holds features of 1 other videos, such as video2"):
        check_replaceable(out, ["video0", "video1"])
    with h5py.File(tmp_path / "theirs.hdf5", "w") as file:
        file["video0"] = np.zeros((2, 4), np.float32)
    with pytest.raises(ClipcapError, match="holds features of another program"):
        check_replaceable(tmp_path / "theirs.hdf5", ["video0"])


def test_sets_of_data_that_hold_next_to_nothing_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file.create_dataset("bomb", shape=(10**6, 10**4), dtype=np.float32)  # 40 GB that were never written
        file["flat"] = np.zeros(5, np.float32)
    store = open_features(tmp_path / "f.hdf5")
    with pytest.raises(ClipcapError, match=r"it says that they have 40\.0 GB, and holds next to none of them"):
        store.load("bomb")
    with pytest.raises(ClipcapError, match=r"features of flat have shape \[5\]; expected \[frames, width\]"):
        store.load("flat")
