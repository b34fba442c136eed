"""The layouts of features, told apart and turned into each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import convert_features, open_features
from tests.tiny import features_of, write_feature_folder


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


def test_a_folder_is_of_the_first_layout_that_it_holds_files_of(tmp_path: Path) -> None:
    folder = write_feature_folder(tmp_path / "features", range(2))
    np.save(folder / "video7.npy", features_of(7))
    assert open_features(folder).ids() == ["video0", "video1"]
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert open_features(folder).ids() == ["video7"]
    (folder / "video7.npy").unlink()
    with pytest.raises(ClipcapError, match="no features in folder"):
        open_features(folder)


def test_features_that_do_not_say_how_they_were_made_become_parquet_alone(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "npy").mkdir()
    for number in range(3):
        np.save(tmp_path / "npy" / f"video{number}.npy", features_of(number))
    store = open_features(tmp_path / "npy")
    with pytest.raises(ClipcapError, match=r"do not say how they were made.*convert them with --format parquet"):
        convert_features(store, tmp_path / "new", "safetensors")
    assert not (tmp_path / "new").exists()
    for _ in range(2):  # again, it takes the place of the one before
        assert convert_features(store, tmp_path / "new", "parquet") == 3
        made = open_features(tmp_path / "new")
        assert (made.ids(), made.fingerprint) == (store.ids(), None)
        np.testing.assert_array_equal(made.load("video2").features, features_of(2).astype(np.float16))
