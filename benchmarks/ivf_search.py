"""Search among millions of made-up frames: recall and time of the approximate index, against exact search.

    python benchmarks/ivf_search.py --frames 10000000 --folder FOLDER

Frames and texts are made up as CLIP's lie: in two cones of one space, a topic behind each video and each text. The
store of features, 28 frames a video, 512 wide, is made once and kept in the folder: one kilobyte a frame, and one and a
half more for the index.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.layouts import open_features
from clipcap_video.features.shards import ShardWriter
from clipcap_video.search.index import unit
from clipcap_video.search.ivf import IvfIndex, Queries, update_ivf
from clipcap_video.search.searching import PlainEmbedder
from clipcap_video.video.sampling import SamplingSpec

DIM, TOPICS, LENGTH = 512, 64, 28
_rng = np.random.default_rng(0)
MIXING = _rng.normal(size=(TOPICS, DIM)) / TOPICS**0.5
FRAMES_AT, TEXTS_AT = _rng.normal(size=(2, DIM))
CENTRES = _rng.normal(size=(2000, TOPICS))


def topics(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, TOPICS]: around centres, some of which are common and most of which are rare."""
    which = np.minimum(rng.zipf(1.2, count), len(CENTRES)) - 1
    return CENTRES[which] + 0.5 * rng.normal(size=(count, TOPICS))


def make_store(folder: Path, frames: int) -> None:
    fingerprint = Fingerprint("made up", "sha256:0", "none", SamplingSpec())
    with ShardWriter(folder, DIM, fingerprint) as writer:
        for start in range(0, frames // LENGTH, 256):
            rng = np.random.default_rng([1, start])
            about = topics(rng, 256)
            shown = about[:, None].astype(np.float32) + 0.4 * rng.standard_normal((256, LENGTH, TOPICS), np.float32)
            noise = 0.5 * rng.standard_normal((256, LENGTH, DIM), np.float32)
            vectors = unit(FRAMES_AT.astype(np.float32) + shown @ MIXING.astype(np.float32) + noise)
            for number, video in enumerate(vectors, start):
                writer.add(f"v{number}", video, np.arange(LENGTH) / 2)


def make_queries(count: int) -> Queries:
    rng = np.random.default_rng(2)
    vectors = unit(TEXTS_AT + topics(rng, 2 * count) @ MIXING + 0.5 * rng.normal(size=(2 * count, DIM)))
    return Queries(vectors[:count], vectors[count:], "made-up texts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    features = options.folder / f"features-{options.frames}"
    if not features.exists():
        features.mkdir(parents=True)
        timed("features made", lambda: make_store(features, options.frames))
    store = timed("store opened", lambda: open_features(features))
    index: IvfIndex = timed(
        "index made or opened",
        lambda: update_ivf(store, PlainEmbedder(), features / "search", lambda: make_queries(250), print),
    )
    print(index.about)
    with ShardWriter(features, DIM, store.fingerprint) as writer:
        vectors = np.random.default_rng(time.time_ns()).normal(size=(1000, LENGTH, DIM))
        for number, video in enumerate(unit(vectors)):
            writer.add(f"new{time.time_ns()}-{number}", video, np.arange(LENGTH) / 2)
    more = open_features(features)
    timed(
        "1,000 videos added",
        lambda: update_ivf(more, PlainEmbedder(), features / "search", lambda: make_queries(250), print),
    )
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def timed(what: str, do):  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    result = do()
    print(f"{what}: {time.perf_counter() - started:.1f} s", flush=True)
    return result


if __name__ == "__main__":
    main()
