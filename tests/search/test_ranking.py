"""Exact ranking, against brute force over full matrices in float64."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from clipcap_video.search import ranking
from clipcap_video.search.index import SearchIndex
from clipcap_video.search.ranking import SearchHit, merged, search
from tests.search.conftest import DIM, arrays_of, features_of, update, write_videos


def brute_force(index: SearchIndex, query: np.ndarray, rank_by: str) -> list[tuple[str, float, int]]:
    """(video, score, best frame) of all videos by the full matrix, best first, equal ones in order."""
    tensors = arrays_of(index.path)
    query = query.astype(np.float64) / np.linalg.norm(query)
    of_frames = [float(row.astype(np.float64) @ query) for row in tensors["frames"]]
    found = []
    for number, video_id in enumerate(json.loads(tensors["about"].tobytes())["ids"]):
        scores = of_frames[tensors["offsets"][number] : tensors["offsets"][number + 1]]
        best = max(range(len(scores)), key=scores.__getitem__)
        score = scores[best] if rank_by == "moment" else float(tensors["videos"][number].astype(np.float64) @ query)
        found.append((video_id, score, best))
    return sorted(found, key=lambda item: -round(item[1], 9))


@pytest.mark.parametrize("rank_by", ["moment", "video"])
@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_search_equals_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank_by: str, rows: int) -> None:
    """Videos 50 apart are equal: they come in the order of their ids, whatever block of rows each stands in."""
    monkeypatch.setattr(ranking, "ROWS", rows)
    index = update(write_videos(tmp_path / "features", range(120)))
    for seed in range(5):
        query = np.random.default_rng(1000 + seed).normal(size=DIM).astype(np.float32)
        expected = brute_force(index, query, rank_by)
        for top in (1, 10, 120, 500):
            hits = search(index, query, top, rank_by)
            assert [hit.video for hit in hits] == [video for video, _, _ in expected[:top]]
            np.testing.assert_allclose(
                [hit.score for hit in hits], [score for _, score, _ in expected[:top]], atol=1e-3
            )
            assert [hit.frame for hit in hits] == [frame for _, _, frame in expected[:top]]
            assert all(hit.time == hit.frame * 0.5 for hit in hits)


def test_a_video_can_be_left_out(tmp_path: Path) -> None:
    index = update(write_videos(tmp_path / "features", range(3)))
    query = features_of(1)[0]
    assert search(index, query, 3)[0].video == "video1"
    assert {hit.video for hit in search(index, query, 3, without="video1")} == {"video0", "video2"}


def test_other_layouts_without_times(tmp_path: Path) -> None:
    (tmp_path / "npy").mkdir()
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        for number in range(5):
            file[f"video{number}"] = features_of(number)
            np.save(tmp_path / "npy" / f"video{number}.npy", features_of(number))
    for path in (tmp_path / "npy", tmp_path / "old.hdf5"):
        index = update(path)
        assert index.path.parent == (path / "search" if path.is_dir() else tmp_path / "old.search")
        hit = search(index, features_of(3)[1], 1)[0]
        assert (hit.video, hit.frame, hit.time) == ("video3", 1, None)


def test_what_several_indices_hold_is_one_ranking_and_equal_ones_stay_in_order() -> None:
    first = [SearchHit("a", 0.9, 0, None), SearchHit("b", 0.5, 0, None)]
    second = [SearchHit("c", 0.9, 1, 2.0), SearchHit("d", 0.7, 0, None)]
    assert [hit.video for hit in merged([first, second], 3)] == ["a", "c", "d"]
    assert merged([[], []], 3) == []
