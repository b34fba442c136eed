"""The curve of CIDEr by confidence, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.confidence import ConfidenceBin

INK, SOFT, ACCENT = "#1b1d20", "#5d6167", "#2b5c8a"


def draw_confidence_curve(bins: Sequence[ConfidenceBin], out: Path) -> Path:
    """Draws bars of CIDEr (times 100) by confidence, and the CIDEr of the videos that each threshold keeps.

    out: a .png, .svg or .pdf; its folder is made. Raises ClipcapError for another ending, or when it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ClipcapError(f"cannot draw {out}; give --confidence_curve a name that ends in .png, .svg or .pdf")
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
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
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
    except OSError as error:
        raise ClipcapError(f"cannot write {out} ({error.strerror}); choose another --confidence_curve") from None
    return out
