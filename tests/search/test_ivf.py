"""The approximate index against exact search over the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipcap_video.features.layouts import open_features
from clipcap_video.features.shards import ShardWriter
from clipcap_video.search import ivf
from clipcap_video.search.index import index_folder, unit, update_index
from clipcap_video.search.ivf import IvfIndex, Queries, fresh_ivf, update_ivf
from clipcap_video.search.ranking import search
from tests.search.conftest import Counting
from tests.tiny import fingerprint

pytest.importorskip("faiss", reason="faiss (extra search) is not installed")
pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
DIM = 32
MIXING = np.random.default_rng(1).normal(size=(8, DIM))
FRAMES_AT, TEXTS_AT = np.random.default_rng(2).normal(size=(2, DIM)) * 3


def write_videos(folder: Path, numbers: range) -> Path:
    """Frames about a topic a video, in a space where texts lie elsewhere, as in CLIP's."""
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, DIM, fingerprint()) as writer:
        for number in numbers:
            rng = np.random.default_rng(number)
            topic = rng.normal(size=8) + 0.3 * rng.normal(size=(7, 8))
            frames = unit(FRAMES_AT + topic @ MIXING + 0.3 * rng.normal(size=(7, DIM)))
            writer.add(f"v{number}", frames, np.arange(7) / 2)
    return folder


def queries() -> Queries:
    rng = np.random.default_rng(3)
    texts = unit(TEXTS_AT + rng.normal(size=(80, 8)) @ MIXING + 0.3 * rng.normal(size=(80, DIM)))
    return Queries(texts[:40], texts[40:], "texts")


def no_queries() -> Queries:
    raise AssertionError("the index is trained again")


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf, "SEGMENT_FRAMES", 1400)
    monkeypatch.setattr(ivf, "CANDIDATES", 60)


def update(folder: Path, embedder: Counting | None = None, asked=queries, tell=lambda line: None) -> IvfIndex:
    return update_ivf(open_features(folder), embedder or Counting(), index_folder(folder), asked, tell, progress=False)


def test_it_says_its_recall_on_texts_and_keeps_to_it(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(700))
    said: list[str] = []
    index = update(folder, tell=said.append)
    assert len(index.segments) == 4
    assert index.ids == open_features(folder).ids()
    exact = update_index(open_features(folder), Counting(), tmp_path / "exact", progress=False)
    shares = []
    for query in queries().held_out:
        wanted, found = (one(query, 10) for one in (lambda q, n: search(exact, q, n), index.search))
        shares.append(len({hit.video for hit in wanted} & {hit.video for hit in found}) / 10)
        # What is found is scored as exact search scores it, and in its order.
        scores = {hit.video: hit for hit in wanted}
        assert [hit for hit in found if hit.video in scores] == [hit for hit in wanted if hit in found]
        assert all(scores[hit.video] == hit for hit in found if hit.video in scores)
    assert index.about.recall == pytest.approx(np.mean(shares))
    assert index.about.recall >= 0.95
    assert 1 < index.about.probes < index.about.cells
    assert f"recall@10 {index.about.recall:.3f} against exact search, of 40 held-out texts" in said[0]
    # All cells: nothing is missed.
    for query in queries().held_out[:5]:
        found = index.search(query, 5, probes=index.about.cells)
        assert found == search(exact, query, 5)
        assert index.search(query, 5, "video") == search(exact, query, 5, "video")
    assert index.search(exact.videos[3], 5, without=exact.ids[3], probes=index.about.cells) == search(
        exact, exact.videos[3], 5, without=exact.ids[3]
    )
    np.testing.assert_array_equal(index.vector_of("v3"), exact.videos[exact.ids.index("v3")])


def test_what_comes_is_added_and_what_is_gone_is_passed_over(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "features", range(600))
    first = update(folder)
    assert len(first.segments) == 3
    home = first.path
    before = {file.name: file.stat().st_mtime_ns for file in home.glob("[01].*")}
    write_videos(folder, range(600, 640))
    assert fresh_ivf(folder, Counting(), index_folder(folder)) is None
    embedder = Counting()
    index = update(folder, embedder, no_queries)
    # The last segment had room for 600 frames more of 1400: it alone is written, and its own vectors are copied.
    assert embedder.embedded == 40
    assert {file.name: file.stat().st_mtime_ns for file in home.glob("[01].*")} == before
    assert sorted(index.ids) == sorted(open_features(folder).ids())
    vector = index.vector_of("v610")
    assert index.search(vector, 1)[0].video == "v610"
    # A shard goes, with all of its videos.
    shards = sorted(folder.glob("*.parquet"))
    shards[0].unlink()
    index = update(folder, Counting(), no_queries)
    assert sorted(index.ids) == sorted(open_features(folder).ids())
    assert {hit.video for hit in index.search(vector, 40)} <= set(index.ids)
    # Opened again, the same.
    again = fresh_ivf(folder, Counting(), index_folder(folder))
    if again is not None:  # unless the folder changed too recently to tell
        assert again.ids == index.ids
        assert again.search(vector, 5) == index.search(vector, 5)
