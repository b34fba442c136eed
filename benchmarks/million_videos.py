"""Time and memory until the first step of a training run on a million videos with twenty captions each, made up.

    python benchmarks/million_videos.py --folder FOLDER [--videos 1000000]

Features are Parquet shards of --frames frames of --width numbers a video, captions a Parquet table. Both are made once
and kept in the folder; with 2 frames, 64 wide, they take 2 GB. The memory is that of the process that trains.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.shards import ShardWriter
from clipcap_video.models.language_model import create_language_model
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import prepare
from clipcap_video.video.sampling import SamplingSpec

SUBJECTS = ("a man", "a woman", "two boys", "a dog", "a cartoon character", "a group of people", "someone", "a girl")
ACTIONS = ("riding a horse", "cooking in a kitchen", "playing with a ball", "singing on a stage", "running away")
PLACES = ("outside", "at night", "in a city", "on a beach", "in front of a crowd", "near a river", "in a room")


def make(folder: Path, videos: int, frames: int, width: int) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    rng = np.random.default_rng(0)
    fingerprint = Fingerprint("made up", "sha256:0", "none", SamplingSpec())
    block = rng.normal(size=(1000, frames, width)).astype(np.float16)
    with ShardWriter(folder / "features", width, fingerprint) as writer:
        for number in range(videos):
            writer.add(f"video{number}", block[number % 1000], np.arange(frames))
    texts = [f"{subject} is {action} {place}" for subject in SUBJECTS for action in ACTIONS for place in PLACES]
    create_language_model(texts, folder / "lm", vocab_size=400, layers=2, width=64, heads=4)
    schema = pyarrow.schema([("video", pyarrow.string()), ("caption", pyarrow.string()), ("split", pyarrow.string())])
    with parquet.ParquetWriter(folder / "captions.parquet", schema) as file:
        for start in range(0, videos, 50_000):
            ids = np.repeat(np.arange(start, min(start + 50_000, videos)), 20)
            chosen = [f"{texts[one]} {number}" for number, one in enumerate(rng.integers(0, len(texts), len(ids)))]
            splits = np.where(ids % 1000 == 0, "validate", "train").tolist()
            file.write_table(pyarrow.table([[f"video{one}" for one in ids.tolist()], chosen, splits], schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    folder = options.folder / str(options.videos)
    if not folder.exists():
        folder.mkdir(parents=True)
        make(folder, options.videos, options.frames, options.width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, busy = time.perf_counter(), time.process_time()
    config = TrainConfig(
        data=folder / "features", caption=[folder / "captions.parquet"], lm=str(folder / "lm"),
        out_dir=folder / "out", only_prefix=True, prefix_length=4, num_layers=1, captions_per_video=5, epochs=1,
    )  # fmt: skip
    run, _ = prepare(config)
    digest = run.order.data.digest()
    run.rehearse(run.groups(0)[0])
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{run.size()}; first step after {seconds:.1f} s, {busy:.1f} of a core (limit 60)")
    print(f"peak memory {peak / 2**20:.2f} GiB, {before / 2**20:.2f} before (limit 8); digest {digest}")


if __name__ == "__main__":
    main()
