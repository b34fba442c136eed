"""Exact search: cosines of a query with every frame or video of an index. Arithmetic alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clipcap_video.search.index import SearchIndex

# Rows turned into float32 at once: two megabytes at 512 wide, which stay in the processor's cache. A million frames
# take a quarter of a second that way, so that no approximate index is needed.
ROWS = 1024
# More than rounding can make of a cosine in float32: what lies closer than this is compared in float64.
MARGIN = 1e-4


@dataclass(frozen=True)
class SearchHit:
    """A video that was found.

    score: cosine, of the query and the best frame or the whole video. frame: number of the best frame among those in
    the index; time: where it is, in seconds, None where the features do not say.
    """

    video: str
    score: float
    frame: int
    time: float | None


def search(
    index: SearchIndex,
    query: np.ndarray,
    top: int,
    rank_by: str = "moment",
    without: str | None = None,
    among: np.ndarray | None = None,
) -> list[SearchHit]:
    """The `top` videos that match the query [D] best, best first; equal ones in the order of the index.

    rank_by: "moment", by a video's best frame; "video", by the mean of its frames, as CLIP4Clip does.
    without: id of a video to leave out. among: numbers of the videos to compare; all unless given.
    """
    query = query.astype(np.float32) / max(float(np.linalg.norm(query)), 1e-30)
    if among is not None:
        chosen = [number for number in among.tolist() if index.ids[number] != without]
        return _ranked(index, query, chosen, rank_by)[:top]
    if rank_by == "video":
        scores = cosines(index.videos, query)
    else:
        # Every video has a frame, so no segment of the reduction is empty.
        scores = np.maximum.reduceat(cosines(index.frames, query), index.offsets[:-1])
    if without in index.ids:
        scores[index.ids.index(without)] = -np.inf
        top = min(top, len(scores) - 1)
    top = min(top, len(scores))
    if top < 1:
        return []
    # Sums in float32 depend on where a row stands, by a hair. Candidates are summed again, all in one way, so that
    # equal videos are equal.
    least = np.partition(scores, len(scores) - top)[len(scores) - top]
    return _ranked(index, query, np.flatnonzero(scores >= least - MARGIN).tolist(), rank_by)[:top]


def merged(parts: Sequence[list[SearchHit]], top: int) -> list[SearchHit]:
    """The `top` best of what was found in several indices; equal ones in their order."""
    return sorted((hit for part in parts for hit in part), key=lambda hit: -hit.score)[:top]


def _ranked(index: SearchIndex, query: np.ndarray, candidates: list[int], rank_by: str) -> list[SearchHit]:
    """Videos by number, best first, compared in float64."""
    exact = query.astype(np.float64)
    exact_scores = []
    for number in candidates:
        of_frames = _exact(index.frames[index.rows(number)], exact)
        frame = int(of_frames.argmax())
        score = _exact(index.videos[number : number + 1], exact)[0] if rank_by == "video" else of_frames[frame]
        exact_scores.append((-float(score), number, frame))
    hits = []
    for negative, number, frame in sorted(exact_scores):
        time = float(index.times[index.offsets[number] + frame])
        hits.append(SearchHit(index.ids[number], -negative, frame, None if np.isnan(time) else round(time, 3)))
    return hits


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Products of unit vectors float16 [N, D], perhaps on disk, with a unit query float32 [D]: float32 [N]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the file is not open for writing
        rows = torch.from_numpy(vectors)
    wanted = torch.from_numpy(query)
    scores = torch.empty(len(rows))
    buffer = torch.empty(min(ROWS, len(rows)), rows.shape[1])
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        buffer[: len(part)].copy_(part)
        torch.mv(buffer[: len(part)], wanted, out=scores[start : start + len(part)])
    return scores.numpy()


def _exact(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    return (vectors.astype(np.float64) * query).sum(axis=1)
