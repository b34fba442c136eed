"""Time and memory of extraction, training and captioning against the number of videos, and extraction against length.

    python benchmarks/growth.py --plot docs/speed.png

Tiny stand-ins do the arithmetic (an encoder that averages pixels, a language model of two layers and width 64), so that
100,000 videos take a quarter of an hour: what is measured is whether anything grows faster than the number of videos.
Time is that of all cores together, which other programs on the machine do not change much.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import apart, quiet_libraries
from extraction import make_clip

COUNTS = (100, 1_000, 10_000, 100_000)
MOST_LINKS = 50_000  # to one file, which some file systems allow no more of
MINUTES = (1, 4, 16, 64)
WORDS = [f"{a}{b}" for a in "bcdfghklmnprstvw" for b in "aeiou"]


def stand_in():
    """An encoder that costs nothing: 8 x 8 pixels of each frame."""
    from clipcap_video.encoders.base import NetworkEncoder, Preprocessing

    class Pixels(NetworkEncoder):
        def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(pixels, 8).flatten(1)

    grey = (127.0, 127.0, 127.0)
    recipe = Preprocessing(32, (32, 32), "bilinear", grey, grey)
    return Pixels("pixels", torch.nn.Identity(), 192, recipe, "sha256:0", torch.device("cpu"), "fp32")


def clocked(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def extraction(videos: list[Path], out: Path, sampling: str = "uniform") -> float:
    from clipcap_video.features.extract import extract
    from clipcap_video.video.sampling import SamplingSpec

    spec = SamplingSpec("fps", fps=1) if sampling == "fps" else SamplingSpec("uniform", 8)
    named = {f"video{number}": video for number, video in enumerate(videos)}
    encoder = stand_in()
    return clocked(lambda: extract(named, encoder, spec, out, progress=False))


def make_features(folder: Path, count: int) -> None:
    """Features and annotations of `count` videos with five captions each, and a language model."""
    from clipcap_video.features.fingerprint import Fingerprint
    from clipcap_video.features.store import write_features
    from clipcap_video.models.language_model import create_language_model
    from clipcap_video.video.sampling import SamplingSpec

    random = np.random.default_rng(0)
    (folder / "features").mkdir(parents=True)
    fingerprint = Fingerprint("pixels", "sha256:0", "none", SamplingSpec("uniform", 8))
    sentences = []
    for number in range(count):
        write_features(folder / "features", f"video{number}", random.random((8, 192)), np.arange(8.0), fingerprint)
        sentences += [
            {"video_id": f"video{number}", "caption": " ".join(random.choice(WORDS, 8))} for _ in range(5)
        ]  # fmt: skip
    videos = [{"video_id": f"video{number}", "split": "train"} for number in range(count)]
    (folder / "data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    texts = [sentence["caption"] for sentence in sentences[:2000]]
    create_language_model(texts, folder / "lm", vocab_size=500, layers=2, width=64, heads=4)


def training(folder: Path) -> float:
    quiet_libraries()
    from clipcap_video.training.config import TrainConfig
    from clipcap_video.training.run import train

    config = TrainConfig(
        data=folder / "features", caption=[folder / "data.json"], lm=str(folder / "lm"), out_dir=folder / "out",
        epochs=1, bs=16, eval_every=0, save_every=0, precision="fp32", device="cpu",
    )  # fmt: skip
    return clocked(lambda: train(config))


def captioning(folder: Path) -> float:
    quiet_libraries()
    from clipcap_video import Captioner
    from clipcap_video.decoding import DecodingSettings
    from clipcap_video.features.layouts import open_features

    captioner = Captioner.from_pretrained(folder / "out", device="cpu")
    store = open_features(folder / "features")
    settings = DecodingSettings(use_beam_search=True, beam_size=3, entry_length=8)
    return clocked(lambda: captioner.caption_store(store, store.ids(), settings))


def measure(counts: list[int], minutes: list[float]) -> dict[str, list[list[float]]]:
    """curve -> [x, core-seconds, peak GiB] for each point."""
    curves: dict[str, list[list[float]]] = {}

    def point(curve: str, x: float, function: Callable[..., float], *arguments: object) -> None:
        run = apart(function, *arguments)
        curves.setdefault(curve, []).append([x, run.value, run.memory / 2**30])
        print(f"{curve} at {x:,g}: {run.value:.2f} core-seconds, {run.memory / 2**30:.2f} GiB", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = make_clip(folder / "clip.mp4", 1, (96, 64), 10)
        for count in counts:
            links = folder / f"videos{count}"
            links.mkdir()
            for number in range(count):
                video, first = links / f"video{number}.mp4", links / f"video{number // MOST_LINKS * MOST_LINKS}.mp4"
                shutil.copy(clip, video) if video == first else os.link(first, video)
            point("extraction", count, extraction, sorted(links.iterdir()), folder / f"out{count}")
            apart(make_features, folder / f"made{count}", count)
            point("training, one epoch", count, training, folder / f"made{count}")
            point("captioning", count, captioning, folder / f"made{count}")
        for length in minutes:
            long = make_clip(folder / f"long{length}.mp4", length * 60, (96, 64), 25)
            point("a frame a second", length, extraction, [long], folder / f"fps{length}", "fps")
            point("8 frames, by jumps", length, extraction, [long], folder / f"jumps{length}")
    return curves


def plot(curves: dict[str, list[list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    by_length = ("a frame a second", "8 frames, by jumps")
    for column, names in enumerate(([name for name in curves if name not in by_length], by_length)):
        for row, label in ((0, "core-seconds"), (1, "peak memory, GiB")):
            panel = axes[row][column]
            for name in names:
                points = np.array(curves[name])
                panel.plot(points[:, 0], points[:, 1 + row], "o-", label=name)
            panel.set_xlabel("minutes of one video" if column else "videos")
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
            panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
        axes[0][column].legend()
    axes[0][0].set_title("against the number of videos")
    axes[0][1].set_title("extraction against a video's length")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--minutes", type=float, nargs="+", default=list(MINUTES))
    parser.add_argument("--plot", type=Path, help="write the picture here")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    curves = measure(options.counts, options.minutes)
    if options.json:
        options.json.write_text(json.dumps(curves))
    if options.plot:
        plot(curves, options.plot)
    print("\n| curve | x | core-seconds | per 1,000 or minute | peak GiB |\n| --- | --- | --- | --- | --- |")
    for name, points in curves.items():
        unit = 1 if name in ("a frame a second", "8 frames, by jumps") else 1000
        for x, seconds, memory in points:
            print(f"| {name} | {x:,g} | {seconds:.3g} | {seconds / x * unit:.3g} | {memory:.2f} |")


if __name__ == "__main__":
    main()
