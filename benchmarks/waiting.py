"""What a user waits for, as whole processes: start-up, one clip, nothing to do, the first training step.

    python benchmarks/waiting.py
    python benchmarks/waiting.py --only help second_run

*Floor* is the time of the imports alone (typer, or torch and transformers), where they are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Row, run

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"help": 0.5, "one_clip": 8.0, "second_run": 2.0, "first_step": 5.0}


def seconds(*command: str | Path, until: Path | None = None, runs: int = 1) -> float:
    """Shortest wall time of a command, or from its start to the first line in the file `until`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if until is not None:
            while not (until.exists() and until.stat().st_size) and process.poll() is None:
                time.sleep(0.01)
            best = min(best, time.perf_counter() - start)
            process.kill()
        assert process.stderr is not None
        errors = process.stderr.read().decode()
        code = process.wait()
        if until is None:
            best = min(best, time.perf_counter() - start)
            if code:
                sys.exit(f"{command} failed: {errors}")
        elif not until.exists():
            sys.exit(f"{command} ended before it wrote {until}: {errors}")
    return best


def help_time(folder: Path) -> tuple[float, float | None]:
    return max(seconds(ROOT / f"{name}.py", "--help", runs=3) for name in COMMANDS), seconds(
        "-c", "import typer", runs=3
    )


# What a training cannot do without: GPT-2's model brings much of torch and transformers with it.
IMPORTS = "import gc, os; gc.disable(); import torch, accelerate, transformers.models.gpt2.modeling_gpt2; os._exit(0)"
COMMANDS = ("extract_features", "train_vtt", "inference_vtt")


def one_clip(folder: Path) -> tuple[float, float | None]:
    from extraction import make_clip

    clip = make_clip(folder / "clip.mp4", 10)
    captioning = seconds(ROOT / "inference_vtt.py", "--videos", clip, "--out", folder / "captions.json", runs=2)
    return captioning, seconds("-c", "import torch, transformers, cv2", runs=2)


def second_run(folder: Path) -> tuple[float, float | None]:
    """10,000 videos with features, made by a first run over one of them and copies of its files."""
    from extraction import make_clip

    videos, out = folder / "videos", folder / "features"
    videos.mkdir()
    make_clip(videos / "video0.mp4", 1)
    command = [ROOT / "extract_features.py", "--videos", videos, "--out", out, "--encoder", "efficientnet-lite2"]
    seconds(*command)
    made = (out / "video0.safetensors").read_bytes()
    for number in range(1, 10_000):
        (videos / f"video{number}.mp4").touch()
        (out / f"video{number}.safetensors").write_bytes(made)
    return seconds(*command, runs=3), None


def training_data(folder: Path) -> list[str | Path]:
    """5,000 videos of 20 captions each, a small language model with a vocabulary of its own: options that use them."""
    from clipcap_video.features.fingerprint import Fingerprint
    from clipcap_video.features.store import write_features
    from clipcap_video.models.language_model import create_language_model
    from clipcap_video.video.sampling import SamplingSpec

    words = [
        f"{a}{b}"
        for a in ["b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w"]
        for b in ["a", "e", "i", "o", "u", "ai", "ou", "ee"]
    ]
    random = np.random.default_rng(0)
    lengths = np.clip(random.poisson(9.4, (5000, 20)), 3, 40)
    captions = [[" ".join(random.choice(words, length)) for length in row] for row in lengths]
    features = folder / "features"
    features.mkdir()
    fingerprint = Fingerprint("made", "sha256:0", "none", SamplingSpec("uniform", 8))
    for number in range(5000):
        write_features(features, f"video{number}", random.random((8, 512)), np.arange(8.0), fingerprint)
    data = {
        "videos": [{"video_id": f"video{number}", "split": "train"} for number in range(5000)],
        "sentences": [
            {"video_id": f"video{number}", "caption": caption}
            for number, row in enumerate(captions)
            for caption in row
        ],
    }  # fmt: skip
    (folder / "data.json").write_text(json.dumps(data))
    flat = [caption for row in captions for caption in row]
    create_language_model(flat, folder / "lm", vocab_size=4000, layers=4, width=384, heads=6)
    return ["--features", features, "--annotations", folder / "data.json", "--lm", folder / "lm"]


def first_step(folder: Path) -> tuple[float, float | None]:
    """Until the first step begins: run.yaml is written right before it."""
    command = [ROOT / "train_vtt.py", *training_data(folder)]
    took = {"run.yaml": float("inf"), "metrics.jsonl": float("inf")}
    for name in took:
        for number in range(2):
            out = folder / f"{name}{number}"
            took[name] = min(took[name], seconds(*command, "--out", out, "--bs", "8", until=out / name))
    print(f"the first step ends after {took['metrics.jsonl']:.2f} s", flush=True)
    return took["run.yaml"], seconds("-c", IMPORTS, runs=2)


def measure(options: argparse.Namespace) -> list[Row]:
    kinds = {"help": help_time, "one_clip": one_clip, "second_run": second_run, "first_step": first_step}
    rows = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            took, floor = kinds[name](Path(folder))
        rows.append(Row(name, "s", LIMITS[name], took, floor, "reference: the most allowed", more_is_better=False))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(LIMITS), default=list(LIMITS))
    run(measure, parser)


if __name__ == "__main__":
    main()
