"""Captions of stored features with the starter: videos a second in lanes, idle and beside busy processes.

    python benchmarks/lanes.py                          # made-up features, 128 videos
    python benchmarks/lanes.py --features features/     # the first 128 of a folder

*Reference* is the same program with every operation spread over all cores, in the same run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import apart

from clipcap_video import Captioner
from clipcap_video.features.layouts import open_features


@contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def videos_a_second(
    folder: str | None, count: int, lanes: bool, precision: str, beams: int
) -> tuple[float, list[list[int]]]:
    """Best of two passes, and the captions' tokens."""
    captioner = Captioner.from_pretrained(device="cpu", precision=precision)
    settings = replace(captioner.default_settings(), beam_size=beams)
    if folder is None:
        rng = np.random.default_rng(0)
        features = [rng.exponential(0.3, (8, captioner.model.feature_dim)).astype(np.float32) for _ in range(count)]
    else:
        store = open_features(Path(folder))
        features = [np.asarray(store.load(name).features, np.float32) for name in list(store.ids())[:count]]
    names = [str(number) for number in range(len(features))]
    best, tokens = 0.0, []
    for _ in range(2):
        start = time.perf_counter()
        if lanes:
            found = [one for at in range(0, count, 64) for one in captioner.caption_features(features[at : at + 64])]
        else:
            found = [
                one
                for at in range(0, count, 64)
                for one in captioner._decoded(features[at : at + 64], settings, names[at : at + 64])
            ]
        best = max(best, len(features) / (time.perf_counter() - start))
        tokens = [one[0].tokens for one in found]
    return best, tokens


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 3])
    chosen = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"{'beside':>8} {'videos/s':>10} {'reference':>10} {'ratio':>7}  same captions   slower than idle")
    idle = 0.0
    for count in chosen.busy:
        with busy(count):
            ours, tokens = apart(videos_a_second, chosen.features, chosen.count, True, "fp32", 40).value
            theirs, before = apart(videos_a_second, chosen.features, chosen.count, False, "fp32", 40).value
        idle = idle or ours
        same = sum(one == other for one, other in zip(tokens, before, strict=True))
        print(
            f"{count:8} {ours:10.1f} {theirs:10.1f} {ours / theirs:7.2f} {same:8} of {len(tokens)} {idle / ours:12.2f}"
        )


if __name__ == "__main__":
    main()
