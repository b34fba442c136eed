"""A picture of a training run: loss, learning rate and CIDEr against the step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipcap_video.files import whole_file

CURVES = "curves.png"
BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draws what `metrics.jsonl` says into a PNG, whole or not at all. Panels without values are left out."""
    # Not pyplot, which would look for a screen and keep figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    panels = [
        draw for draw, name in ((_loss, "loss"), (_rate, "lr"), (_cider, "val_CIDEr")) if any(name in x for x in lines)
    ]
    if not panels:
        return
    figure = Figure(figsize=(8, 2.6 * len(panels)), dpi=100)
    FigureCanvasAgg(figure)
    # Margins in inches; a layout that is computed takes longer than the drawing.
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.085, right=0.99, bottom=0.5 / height, top=1 - 0.12 / height, hspace=0.16)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, draw in zip(axes, panels, strict=True):
        draw(axis, lines)
        axis.grid(alpha=0.25)
        axis.margins(x=0.02)
        axis.yaxis.set_label_coords(-0.062, 0.5)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[-1].set_xlabel("step")
    with whole_file(picture) as partial:
        figure.savefig(partial, format="png")


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of each value and the up to window - 1 before it: [n] -> float64 [n]."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _series(lines: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in points], [value for _, value in points]


def _loss(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    steps, losses = _series(lines, "loss")
    # The loss of one batch says little; the mean over a fiftieth of the run shows where it goes.
    window = max(1, len(losses) // 50)
    if window > 1:
        axis.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8)
    mean = smoothed(losses, window)
    axis.plot(steps, mean, color=BLUE, label=f"training, mean of {window} steps" if window > 1 else "training")
    validated, validation = _series(lines, "val_loss")
    if validated:
        axis.plot(validated, validation, "o-", color=ORANGE, markersize=4, label="validation")
    # Without the first steps, whose losses would flatten the rest.
    shown = [*mean[len(mean) // 50 :], *validation]
    low, high = min(shown), max(shown)
    axis.set_ylim(low - 0.08 * (high - low + 1e-6), high + 0.08 * (high - low + 1e-6))
    axis.set_ylabel("loss, nats a token")
    axis.legend(frameon=False)


def _rate(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    steps, rates = _series(lines, "lr")
    axis.plot(steps, rates, color=GREY)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.set_ylabel("learning rate")


def _cider(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    steps, scores = _series(lines, "val_CIDEr")
    axis.plot(steps, scores, "o-", color=ORANGE, markersize=4)
    best = int(np.argmax(scores))
    axis.annotate(
        f"best {scores[best]:.3f}", (steps[best], scores[best]), xytext=(0, -14), textcoords="offset points",
        ha="center", color=ORANGE,
    )  # fmt: skip
    low, high = min(scores), max(scores)
    axis.set_ylim(low - 0.25 * (high - low + 1e-6), high + 0.1 * (high - low + 1e-6))
    axis.set_ylabel("validation CIDEr")
