"""Draws the loss and the validation CIDEr of training runs from their metrics.jsonl.

    python benchmarks/learning_curves.py "no attention=out_none" "attention=out" --out curves.png

Each run is NAME=OUT_DIR. Needs matplotlib, which comes with pycocoevalcap.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=OUT_DIR")
    parser.add_argument("--out", type=Path, required=True, help="The picture, a .png.")
    options = parser.parse_args()

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), dpi=80)
    for run in options.runs:
        name, folder = run.split("=", 1)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "loss" in line]
        scores = [line for line in lines if "val_CIDEr" in line]
        loss = np.array([line["loss"] for line in steps])
        width = max(1, len(loss) // 60)  # of a moving average, so that the curves can be told apart
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        (curve,) = left.plot([line["step"] for line in steps][width - 1 :], smooth, label=f"{name}, training")
        places = [line["step"] for line in scores]
        left.plot(
            places, [line["val_loss"] for line in scores], "o--", color=curve.get_color(), ms=3, label="validation"
        )
        right.plot(
            places, [100 * line["val_CIDEr"] for line in scores], "o-", color=curve.get_color(), ms=3, label=name
        )
    left.set(xlabel="step", ylabel="loss, nats a word")
    right.set(xlabel="step", ylabel="validation CIDEr, times 100", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
