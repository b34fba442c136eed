"""Captions of stored features with the starter: videos a second in lanes, idle and beside busy processes.

    python benchmarks/lanes.py                          # made-up features, 128 videos
    python benchmarks/lanes.py --features features/     # the first 128 of a folder

*Reference* is the same program with every operation spread over all cores, in the same run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from common import Row, apart, run

from clipcap_video import Captioner
from clipcap_video.features.layouts import open_features


def videos_a_second(folder: str | None, count: int, lanes: bool, precision: str) -> tuple[float, list[list[int]]]:
    """Best of two passes, and the captions' tokens."""
    captioner = Captioner.from_pretrained(device="cpu", precision=precision)
    settings = captioner.default_settings()
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


def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for precision in options.precision:
        ours, tokens = apart(videos_a_second, options.features, options.count, True, precision).value
        theirs, before = apart(videos_a_second, options.features, options.count, False, precision).value
        same = sum(one == other for one, other in zip(tokens, before, strict=True))
        rows.append(Row(f"starter, {precision}", "videos/s", theirs, ours, None, f"{same} of {len(tokens)} the same"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", help="a folder of them; made up unless given")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    run(measure, parser, (0, 1, 3))


if __name__ == "__main__":
    main()
