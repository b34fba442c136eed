"""The search index and exact ranking, against brute force over full matrices in float64."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.search.index import fresh_index, index_folder, unit, update_index
from tests.search.conftest import DIM, Counting, arrays_of, features_of, update, write_videos
from tests.tiny import fingerprint


def test_vectors_are_those_of_the_features(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(20))
    index = update(folder)
    for number, video_id in enumerate(index.ids):
        frames = open_features(folder).load(video_id).features.astype(np.float64)
        frames /= np.linalg.norm(frames, axis=1, keepdims=True)
        np.testing.assert_allclose(index.frames[index.rows(number)], frames, atol=5e-4)
        mean = frames.mean(axis=0)
        np.testing.assert_allclose(index.videos[number], mean / np.linalg.norm(mean), atol=5e-4)


def test_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(3))
    write_features(folder, "video9", np.full((2, DIM), np.nan), np.arange(2), fingerprint())
    with pytest.raises(ClipcapError, match=r"video9.safetensors holds a feature of frame 0 that is no finite number"):
        update(folder)


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(9, 12))
    update(folder)
    tensors = arrays_of(folder / "search" / "counting.index")
    lengths = [len(features_of(number)) for number in range(9, 12)]
    assert {name: (array.dtype.name, array.shape) for name, array in tensors.items() if name != "about"} == {
        "frames": ("float16", (sum(lengths), DIM)),
        "videos": ("float16", (3, DIM)),
        "offsets": ("int64", (4,)),
        "times": ("float32", (sum(lengths),)),
        "stamps": ("int64", (3, 2)),
    }
    about = json.loads(tensors["about"].tobytes())
    assert (about["version"], about["ids"]) == (2, ["video9", "video10", "video11"])
    np.testing.assert_array_equal(np.diff(tensors["offsets"]), lengths)
    np.testing.assert_allclose(np.linalg.norm(tensors["frames"].astype(np.float64), axis=1), 1, atol=1e-3)


def test_an_index_of_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(4))
    file = update(folder).path
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'{"version": 2', b'{"version": 1'))
    again = Counting()
    assert update(folder, again).path.read_bytes() == whole
    assert again.embedded == 4


def test_only_what_changed_is_embedded_and_the_result_is_that_of_a_new_index(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(20))
    first = Counting()
    update(folder, first)
    assert first.embedded == 20
    again = Counting()
    update(folder, again)
    assert again.embedded == 0
    (folder / "video3.safetensors").unlink()
    write_videos(folder, [25, 26])
    features = features_of(7) + 1
    write_features(folder, "video5", features, np.arange(len(features)), fingerprint())
    changed = Counting()
    index = update(folder, changed)
    assert changed.embedded == 3
    kept = index.path.read_bytes()
    index.path.unlink()
    assert update(folder).path.read_bytes() == kept
    assert "video3" not in index.ids
    assert not list(index.path.parent.glob(".*"))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    write_features(folder, "video0", np.ones((2, 5)), np.arange(2), fingerprint(encoder="other", weights="sha256:1"))
    assert update(folder).dim == 5


def test_an_index_is_fresh_while_its_folder_is_untouched(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(4))
    home = index_folder(folder)
    assert fresh_index(folder, Counting(), home) is None
    update(folder)
    # Just now the folder was changed, by making the index itself: that is too recent to be sure of.
    assert fresh_index(folder, Counting(), home) is None
    os.utime(folder, ns=(0, 1_700_000_000_000_000_000))
    update(folder)
    index = fresh_index(folder, Counting(), home)
    assert index is not None
    assert index.ids == [f"video{number}" for number in range(4)]
    write_videos(folder, [4])
    assert fresh_index(folder, Counting(), home) is None


def test_more_frames_than_are_read_are_thinned(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", [6])  # seven frames
    embedder = Counting()
    embedder.max_frames = 3
    index = update(folder, embedder)
    np.testing.assert_allclose(index.times, [0.0, 1.5, 3.0])
    np.testing.assert_allclose(index.frames, unit(features_of(6)[[0, 3, 6]]), atol=1e-3)


def test_damaged_indices_are_made_again_and_damaged_features_are_named(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(4))
    file = update(folder).path
    whole = file.read_bytes()
    for damaged in (b"", whole[:5], whole[:200], whole[:-8], b"\xff" * 500):
        file.write_bytes(damaged)
        assert update(folder).path.read_bytes() == whole
    damaged_features = folder / "video2.safetensors"
    damaged_features.write_bytes(damaged_features.read_bytes()[:-3])
    with pytest.raises(ClipcapError, match=r"cannot read the features .*video2\.safetensors"):
        update(folder)
    assert file.read_bytes() == whole


def test_features_of_several_widths_and_unwritable_places(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(2))
    write_features(folder, "video7", np.ones((2, 5)), np.arange(2), fingerprint())
    with pytest.raises(ClipcapError, match=r"features of video7 in .* are 5 wide, others 24"):
        update(folder)
    assert not list((folder / "search").iterdir())
    (tmp_path / "taken").write_text("")
    with pytest.raises(ClipcapError, match=r"cannot write the search index .*--index"):
        update_index(open_features(folder), Counting(), tmp_path / "taken", progress=False)
