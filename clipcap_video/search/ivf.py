"""Search among millions of frames: candidates from an inverted file, re-ranked exactly over vectors on disk.

FEATURES/search/KEY.ivf/ holds segments of up to a million frames: N.index, unit vectors as in `index.py`, and N.faiss,
the same vectors in eight bits a number, sorted into the cells of a quantiser that all segments share (trained.faiss).
Videos that come go into the last segment, or a new one; what is gone is passed over. about.json says how many cells a
query looks into, and the recall that was measured so against exact search.

Texts lie apart from frames in the space of CLIP, and an index tuned on frames fails them: the cells are made finer
where texts look, and how many are looked into is chosen for texts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore, Origin, VideoFeatures
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.files import write_text
from clipcap_video.search.index import (
    SETTLED_NS,
    FrameEmbedder,
    SearchIndex,
    build_index,
    read_index,
    stamp_of,
    stamps_of,
)
from clipcap_video.search.ranking import SearchHit, cosines, merged, search

# Frames below which exact search is fast enough.
LEAST_FRAMES = 1_000_000
SEGMENT_FRAMES = 1_000_000
# Frames that the quantiser is trained on, for each cell.
SAMPLE = 64
# Frames of a segment that are compared exactly with a query.
CANDIDATES = 200
RECALL = 0.95
ROWS = 65_536
ABOUT, TRAINED = "about.json", "trained.faiss"


@dataclass(frozen=True)
class About:
    """probes: cells looked into. recall: share of the exact ten best videos that are found. queries: what it was
    measured with. milliseconds: of a query, on one core."""

    cells: int
    probes: int
    recall: float
    queries: str
    milliseconds: float

    def __str__(self) -> str:
        return (
            f"{self.probes} of {self.cells:,} cells a query; recall@10 {self.recall:.3f} against exact search, of "
            f"{self.queries}; {self.milliseconds:.1f} ms on one core"
        )


@dataclass(frozen=True)
class Queries:
    """Unit vectors [n, D] like those that will be asked for: some to choose by, others to measure with. kind: words."""

    tuning: np.ndarray
    held_out: np.ndarray
    kind: str


def require_faiss() -> Any:
    """The module faiss. Raises ClipcapError, with the command that installs it, when it is missing."""
    try:
        import faiss
    except ImportError:
        raise ClipcapError("--index ivf needs faiss; pip install 'clipcap-video[search]'") from None
    return faiss


class _Part(FeatureStore):
    """Some videos of a store."""

    def __init__(self, store: FeatureStore, ids: Sequence[str]) -> None:
        self._store, self._ids = store, list(ids)
        self.path, self.fingerprint = store.path, store.fingerprint

    def ids(self) -> list[str]:
        return self._ids

    def file(self, video_id: str) -> Path:
        return self._store.file(video_id)

    def shape(self, video_id: str) -> Any:
        return self._store.shape(video_id)

    def load(self, video_id: str) -> VideoFeatures:
        return self._store.load(video_id)

    def origin(self, video_id: str) -> Origin:
        return self._store.origin(video_id)


@dataclass
class IvfIndex:
    """An open index. gone: of each segment, whether a video is gone or in a later segment."""

    path: Path
    segments: list[SearchIndex]
    lists: list[Any]
    gone: list[np.ndarray]
    trained: Any
    about: About

    @property
    def ids(self) -> list[str]:
        return [
            video_id
            for segment, gone in zip(self.segments, self.gone, strict=True)
            for video_id, absent in zip(segment.ids, gone.tolist(), strict=True)
            if not absent
        ]

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Of the features."""
        return self.segments[0].fingerprint

    @property
    def dim(self) -> int:
        return self.segments[0].dim

    def vector_of(self, video_id: str) -> np.ndarray | None:
        """The vector [D] of a video; None where it is not in the index."""
        for segment, gone in zip(self.segments, self.gone, strict=True):
            if video_id in segment.ids and not gone[segment.ids.index(video_id)]:
                return segment.videos[segment.ids.index(video_id)]
        return None

    def search(
        self, query: np.ndarray, top: int, rank_by: str = "moment", without: str | None = None, probes: int = 0
    ) -> list[SearchHit]:
        """As `ranking.search`. probes: cells to look into; as many as `about` says unless given."""
        asked, query = query, query.astype(np.float32) / max(float(np.linalg.norm(query)), 1e-30)
        cells: Any = None
        hits = []
        for segment, lists, gone in zip(self.segments, self.lists, self.gone, strict=True):
            if rank_by == "video":
                chosen = _best(np.where(gone, -np.inf, cosines(segment.videos, query)), top + 1)
            else:
                if cells is None:
                    cells = self.trained.quantizer.search(query[None], probes or self.about.probes)
                lists.nprobe = cells[1].shape[1]
                _, rows = lists.search_preassigned(query[None], CANDIDATES + top, cells[1], cells[0])
                chosen = self._candidates(segment, rows[0][rows[0] >= 0], gone, query, top)
            hits.append(search(segment, asked, top, rank_by, without, among=chosen))
        return merged(hits, top)

    def _candidates(
        self, segment: SearchIndex, rows: np.ndarray, gone: np.ndarray, query: np.ndarray, top: int
    ) -> np.ndarray:
        """The videos whose candidate frames `rows` are best by their vectors on disk."""
        videos = np.searchsorted(segment.offsets, rows, side="right") - 1
        rows, videos = rows[~gone[videos]], videos[~gone[videos]]
        scores = segment.frames[np.sort(rows)].astype(np.float32) @ query
        videos = videos[np.argsort(rows)]
        found = dict.fromkeys(videos[np.argsort(-scores, kind="stable")].tolist())
        return np.array(list(found)[: 2 * top + 2], dtype=np.int64)


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    count = min(count, int(np.isfinite(scores).sum()))
    return np.argpartition(-scores, count - 1)[:count] if count else np.empty(0, np.int64)


def fresh_ivf(features: Path, embedder: FrameEmbedder, folder: Path) -> IvfIndex | None:
    """The index, if it is known at a glance that nothing came or went since; see `fresh_index`."""
    home = _home(folder, embedder)
    if not (home / ABOUT).is_file() or not features.exists():
        return None
    with suppress(Exception):  # whatever is thrown at a damaged one, which is made anew
        return _open(home) if stamp_of(features)[1] == stamp_of(home / ABOUT)[1] else None
    return None


def update_ivf(
    store: FeatureStore,
    embedder: FrameEmbedder,
    folder: Path,
    queries: Callable[[], Queries],
    tell: Callable[[str], None] = lambda line: None,
    *,
    progress: bool = True,
) -> IvfIndex:
    """The index of a store, made, or brought up to date: what is there already is neither read nor made again.

    queries: called where the index is made. tell: is given sentences about that.
    Raises ClipcapError when the features are not those that the embedder reads, or the index cannot be written.
    """
    faiss = require_faiss()
    check_fingerprints(embedder.fingerprint, store.fingerprint, store.path)
    home = _home(folder, embedder)
    looked = time.time_ns()
    try:
        home.mkdir(parents=True, exist_ok=True)
        fresh = _update_vectors(home, store, embedder, progress)
        if not (home / TRAINED).is_file():
            segments = [read_index(home / f"{number}.index") for number in _numbers(home)]
            made = _train(faiss, [one for one in segments if one is not None], queries())
            faiss.write_index(made[0], str(home / TRAINED))
            fresh = _numbers(home)
        for number in fresh:
            _write_lists(faiss, home, number)
        index = _open(home, store)
        if not (home / ABOUT).is_file():
            index.about = _tune(faiss, index, made[1])
            tell(f"index of {sum(len(one.frames) for one in index.segments):,} frames: {index.about}")
        write_text(
            home / ABOUT, json.dumps(asdict(index.about) | {"gone": [one.nonzero()[0].tolist() for one in index.gone]})
        )
        settled = stamp_of(store.path)[1]
        os.utime(home / ABOUT, ns=(looked, settled if settled < looked - SETTLED_NS else 0))
    except OSError as error:
        raise ClipcapError(
            f"cannot write the search index {home} ({error.strerror}); give another place with --index_dir"
        ) from None
    return index


def _home(folder: Path, embedder: FrameEmbedder) -> Path:
    return folder / f"{embedder.key}.ivf"


def _numbers(home: Path) -> list[int]:
    return sorted(int(file.stem) for file in home.glob("[0-9]*.index"))


def _update_vectors(home: Path, store: FeatureStore, embedder: FrameEmbedder, progress: bool) -> list[int]:
    """Writes vectors of the videos that no segment has as they are now. Returns the segments that it wrote."""
    ids, stamps = store.ids(), stamps_of(store)
    now = {video_id: tuple(stamp) for video_id, stamp in zip(ids, stamps.tolist(), strict=True)}
    numbers = _numbers(home)
    segments = {number: read_index(home / f"{number}.index") for number in numbers}
    for segment in segments.values():
        if segment is None or segment.fingerprint != store.fingerprint:  # damaged, or of other features: all anew
            for file in home.iterdir():
                file.unlink()
            return _update_vectors(home, store, embedder, progress)
    known: dict[str, int] = {}
    for number, segment in segments.items():
        assert segment is not None
        for video_id, stamp in zip(segment.ids, segment.stamps.tolist(), strict=True):
            if now.get(video_id) == tuple(stamp):
                known[video_id] = number
    new = [video_id for video_id in ids if video_id not in known]
    if not new:
        return []
    last = numbers[-1] if numbers else 0
    filled = segments.get(last)
    if filled is not None and len(filled.frames) < SEGMENT_FRAMES:
        new = [video_id for video_id in filled.ids if known.get(video_id) == last] + new
    else:
        filled, last = None, last + len(numbers[:1])
    written = []
    for number, part in enumerate(_segments(store, embedder, new), last):
        build_index(home / f"{number}.index", _Part(store, part), np.array([now[one] for one in part]), embedder,
                    filled if number == last else None, progress)  # fmt: skip
        written.append(number)
    return written


def _segments(store: FeatureStore, embedder: FrameEmbedder, ids: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    frames = 0
    for video_id in ids:
        if frames >= SEGMENT_FRAMES:
            yield part
            part, frames = [], 0
        part.append(video_id)
        frames += min(store.shape(video_id).frames, embedder.max_frames or 2**31)
    yield part


def _train(faiss: Any, segments: list[SearchIndex], queries: Queries) -> tuple[Any, tuple[Queries, list[list[str]]]]:
    """An empty index with its cells, and what exact search answers to the queries: those to choose by, then others."""
    total = sum(len(segment.frames) for segment in segments)
    cells = 2 ** round(np.log2(max(1, total) ** 0.5))
    rng = np.random.default_rng(0)
    truth, near = _exact(segments, np.concatenate([queries.tuning, queries.held_out]), len(queries.tuning))
    share = min(1.0, SAMPLE * cells / total)
    drawn = [
        segment.frames[np.sort(rng.choice(len(segment.frames), round(share * len(segment.frames)), replace=False))]
        for segment in segments
    ]
    sample = np.concatenate([*drawn, near]).astype(np.float32)
    dim = segments[0].dim
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.niter, index.cp.seed, index.cp.min_points_per_centroid = 10, 0, 1
    index.train(sample)
    return index, (queries, truth)


def _exact(segments: list[SearchIndex], queries: np.ndarray, tuning: int) -> tuple[list[list[str]], np.ndarray]:
    """The ten best videos of each query [n, D]; and the frames nearest to the first `tuning` ones, [m, D]."""
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    near = []
    for segment in segments:
        scores = np.empty((len(segment.ids), len(queries)), np.float32)
        for first in range(0, len(segment.ids), 1024):
            last = min(first + 1024, len(segment.ids))
            start, end = int(segment.offsets[first]), int(segment.offsets[last])
            products = segment.frames[start:end].astype(np.float32) @ queries.T  # [frames, n]
            scores[first:last] = np.maximum.reduceat(products, segment.offsets[first:last] - start)
            near.append(segment.frames[start + np.unique(products[:, :tuning].argmax(axis=0))])
        for number, column in enumerate(scores.T):
            found = _best(column, 10)
            best[number] += [(float(column[video]), segment.ids[video]) for video in found]
            best[number] = sorted(best[number], reverse=True)[:10]
    return [[video_id for _, video_id in one] for one in best], np.concatenate(near)


def _write_lists(faiss: Any, home: Path, number: int) -> None:
    """Sorts the vectors of a segment into the cells."""
    index, segment = faiss.read_index(str(home / TRAINED)), read_index(home / f"{number}.index")
    assert segment is not None
    for start in range(0, len(segment.frames), ROWS):
        index.add(segment.frames[start : start + ROWS].astype(np.float32))
    partial = home / f".{number}.partial"
    faiss.write_index(index, str(partial))
    os.replace(partial, home / f"{number}.faiss")


def _tune(faiss: Any, index: IvfIndex, asked: tuple[Queries, list[list[str]]]) -> About:
    """How many cells give the recall that is wanted, and what they give on queries that were not looked at."""
    queries, truth = asked
    cells = index.trained.nlist

    def recall(vectors: np.ndarray, wanted: list[list[str]], probes: int) -> tuple[float, float]:
        started = time.perf_counter()
        answers = [{hit.video for hit in index.search(one, 10, probes=probes)} for one in vectors]
        seconds = (time.perf_counter() - started) / len(vectors)
        shares = [len(found & set(exact)) / len(exact) for found, exact in zip(answers, wanted, strict=True)]
        return float(np.mean(shares)), 1000 * seconds

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    probes = 1
    # A little more than wanted, for the queries to come are others.
    while recall(queries.tuning, truth[: len(queries.tuning)], probes)[0] < RECALL + 0.015 and probes < cells:
        probes = min(cells, max(probes + 1, int(probes * 1.25)))
    found, milliseconds = recall(queries.held_out, truth[len(queries.tuning) :], probes)
    faiss.omp_set_num_threads(threads)
    return About(cells, probes, found, f"{len(queries.held_out)} held-out {queries.kind}", milliseconds)


def _open(home: Path, store: FeatureStore | None = None) -> IvfIndex:
    """The index in `home`. store: says which videos are gone; else about.json does."""
    faiss = require_faiss()
    numbers = _numbers(home)
    segments = [read_index(home / f"{number}.index") for number in numbers]
    assert all(segment is not None for segment in segments)
    lists = [faiss.read_index(str(home / f"{number}.faiss"), faiss.IO_FLAG_MMAP) for number in numbers]
    said = json.loads((home / ABOUT).read_text()) if (home / ABOUT).is_file() else None
    noted = said.pop("gone") if said else []
    gone = [np.zeros(len(segment.ids), bool) for segment in segments if segment is not None]
    if store is not None:
        now = dict(zip(store.ids(), map(tuple, stamps_of(store).tolist()), strict=True))
        for segment, absent in reversed(list(zip(segments, gone, strict=True))):
            assert segment is not None
            for row, (video_id, stamp) in enumerate(zip(segment.ids, segment.stamps.tolist(), strict=True)):
                absent[row] = now.pop(video_id, None) != tuple(stamp)
    else:
        for absent, rows in zip(gone, noted, strict=True):
            absent[rows] = True
    about = About(**said) if said else About(0, 0, 0, "", 0)
    return IvfIndex(home, segments, lists, gone, faiss.read_index(str(home / TRAINED)), about)  # type: ignore[arg-type]
