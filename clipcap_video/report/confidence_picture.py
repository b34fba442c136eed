"""Curves of how far captions can be believed, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError
from clipcap_video.files import whole_file
from clipcap_video.metrics.confidence import ConfidenceBin, ReliabilityBin

INK, SOFT, ACCENT = "#1b1d20", "#5d6167", "#2b5c8a"


def draw_confidence_curve(bins: Sequence[ConfidenceBin], out: Path) -> Path:
    """Draws bars of CIDEr (times 100) by confidence, and the CIDEr of the videos that each threshold keeps.

    out: a .png, .svg or .pdf; its folder is made. Raises ClipcapError for another ending, or when it cannot be written.
    """
    figure, axes = _figure(out, (7, 4))
    places = range(len(bins))
    axes.bar(places, [100 * part.cider for part in bins], color=ACCENT, alpha=0.35, width=0.8, label="these videos")
    axes.plot(
        places,
        [100 * part.kept_cider for part in bins],
        color=ACCENT,
        marker="o",
        markersize=4,
        label="these and all more confident",
    )
    axes.set_xticks(places, [f"{part.lowest:.2f}\nto {part.highest:.2f}" for part in bins], fontsize=8, color=SOFT)
    axes.set_xlabel("confidence, least confident first", color=INK)
    axes.set_ylabel("CIDEr × 100", color=INK)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, out)


def draw_reliability(bins: Sequence[ReliabilityBin], error: float, out: Path) -> Path:
    """Draws the share of captions without a wrong word by their probability, beside the diagonal. As above."""
    figure, axes = _figure(out, (5, 4.5))
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", label="as it should be")
    axes.plot([one.expected for one in bins], [one.right for one in bins], color=ACCENT, marker="o", label="captions")
    for one in bins:
        axes.annotate(f"{one.captions:,}", (one.expected, one.right), (5, -12), textcoords="offset points", fontsize=8)
    axes.set_xlabel("probability of no wrong word", color=INK)
    axes.set_ylabel("share without a wrong word", color=INK)
    axes.set_title(f"expected calibration error {error:.3f}", fontsize=10, color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, out)


def _figure(out: Path, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ClipcapError(f"cannot draw {out}; give it a name that ends in .png, .svg or .pdf")
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, out: Path) -> Path:
    try:
        with whole_file(out) as partial:
            figure.savefig(partial, format=out.suffix[1:].lower())
    except OSError as error:
        raise ClipcapError(f"cannot write {out} ({error.strerror}); choose another place") from None
    return out
