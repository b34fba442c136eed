"""How fast `clipcap-video search` answers among many videos, on one core, beside NumPy over the same vectors.

    python benchmarks/search.py --folder search-benchmark/

makes features of 100,000 videos of 12 frames (random, 512 wide) and their index in the folder, which takes 3 GB and a
few minutes and is kept for the next run; then it measures. `--videos 1000` is a quick look.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import Row, run
from tqdm import tqdm

from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.search.index import SearchIndex, fresh_index, index_folder, update_index
from clipcap_video.search.ranking import search
from clipcap_video.search.searching import PlainEmbedder
from clipcap_video.video.sampling import SamplingSpec

FRAMES, DIM, QUERIES, TOP = 12, 512, 5, 10


def make_features(folder: Path, videos: int) -> None:
    """Videos whose frames lie around one direction each, as those of real videos do."""
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = Fingerprint("made-up", "sha256:0", "none", SamplingSpec("uniform", FRAMES))
    times = np.arange(FRAMES, dtype=np.float32)
    for number in tqdm(range(videos), desc="features", disable=not sys.stderr.isatty()):
        if not (folder / f"video{number}.safetensors").exists():
            rng = np.random.default_rng(number)
            features = rng.standard_normal(DIM) + rng.standard_normal((FRAMES, DIM))
            write_features(folder, f"video{number}", features, times, fingerprint)


def numpy_search(index: SearchIndex, query: np.ndarray) -> list[str]:
    """The reference: the same exact search, written with NumPy."""
    scores = np.empty(len(index.frames), np.float32)
    for start in range(0, len(scores), 8192):
        scores[start : start + 8192] = index.frames[start : start + 8192].astype(np.float32) @ query
    best = np.maximum.reduceat(scores, index.offsets[:-1])
    return [index.ids[number] for number in np.argsort(-best, kind="stable")[:TOP]]


def median_seconds(run: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    run(queries[0])  # the file comes from the disk the first time
    taken = []
    for query in queries:
        start = time.perf_counter()
        run(query)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def prepare(options: argparse.Namespace) -> Path:
    features: Path = options.folder / f"features-{options.videos}"
    make_features(features, options.videos)
    embedder = PlainEmbedder()
    while fresh_index(features, embedder, index_folder(features)) is None:
        start = time.perf_counter()
        update_index(open_features(features), embedder, index_folder(features))
        print(f"index made, or compared with its features, in {time.perf_counter() - start:.1f} s")
        time.sleep(3)  # features that changed just now may change again
    return features


def measure(options: argparse.Namespace) -> list[Row]:
    features = prepare(options)
    start = time.perf_counter()
    index = fresh_index(features, PlainEmbedder(), index_folder(features))
    assert index is not None
    opened = time.perf_counter() - start
    queries = np.random.default_rng(1).standard_normal((QUERIES, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for query in queries:
        assert [hit.video for hit in search(index, query, TOP)] == numpy_search(index, query)
    reference = median_seconds(lambda query: numpy_search(index, query), queries)
    rows = []
    for rank_by, said in (("moment", "by the best frame"), ("video", "by the mean of frames")):
        seconds = median_seconds(lambda query, by=rank_by: search(index, query, TOP, by), queries)
        note = f"{len(index.ids):,} videos, {len(index.frames):,} frames; reference: NumPy, by the best frame"
        rows.append(Row(f"a query, {said}", "s", reference, seconds, None, note, more_is_better=False))
    command = [sys.executable, "-m", "clipcap_video", "search", "--like", "video1", "--features", str(features)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - start
    whole = Row("the whole command, cold", "s", None, taken, None, f"opened in {opened:.3f} s", more_is_better=False)
    return [*rows, whole]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=100_000)
    run(measure, parser)


if __name__ == "__main__":
    main()
