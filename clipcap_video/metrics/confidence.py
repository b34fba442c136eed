"""Whether confident captions are better captions: CIDEr by how likely the model found its own words, or by what its
consensus network expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clipcap_video.errors import ClipcapError


@dataclass(frozen=True)
class ConfidenceBin:
    """Videos of about one confidence.

    lowest, highest: of their confidences; videos: how many; cider: their mean CIDEr.
    kept, kept_cider: how many videos are left, and their mean CIDEr, when all less confident than these are dropped:
    what a threshold of `lowest` would give.
    """

    lowest: float
    highest: float
    videos: int
    cider: float
    kept: int
    kept_cider: float


def confidence_curve(
    confidence: Mapping[str, float], cider: Mapping[str, float], bins: int = 10
) -> tuple[list[ConfidenceBin], float]:
    """CIDEr by quantile of confidence, least confident first, and the rank correlation of the two.

    confidence: of each video's caption, as `PredictionFile.confidence` has it; cider: the score of each caption, by
    video. Videos of equal confidence keep their order. Bins differ by one video at most; there are fewer where videos
    are few.
    The correlation is Spearman's, ties at their mean rank; NaN where all are equal.
    Raises ClipcapError when the captions have no confidence.
    """
    videos = [video for video in cider if math.isfinite(confidence.get(video, math.nan))]
    if not videos:
        raise ClipcapError(
            "these captions carry no log-probabilities, so there is no confidence to draw; give the predictions.json "
            "that inference wrote"
        )
    sure = np.array([confidence[video] for video in videos])
    scores = np.array([cider[video] for video in videos])
    order = np.argsort(sure, kind="stable")
    curve = []
    for part in np.array_split(np.arange(len(videos)), min(bins, len(videos))):
        inside, above = order[part], order[part[0] :]
        curve.append(
            ConfidenceBin(
                float(sure[inside[0]]),
                float(sure[inside[-1]]),
                len(inside),
                float(scores[inside].mean()),
                len(above),
                float(scores[above].mean()),
            )
        )
    return curve, _rank_correlation(sure, scores)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = _ranks(x), _ranks(y)
    if x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def describe_curve(bins: list[ConfidenceBin], correlation: float) -> str:
    """The curve as a table, least confident first; CIDEr times 100."""
    lines = ["confidence             videos   CIDEr   these and all more confident"]
    lines += [
        f"{part.lowest:8.2f} to {part.highest:5.2f} {part.videos:11,} {100 * part.cider:7.2f} "
        f"{part.kept:11,} videos {100 * part.kept_cider:7.2f}"
        for part in bins
    ]
    return "\n".join([*lines, f"rank correlation of confidence and CIDEr: {correlation:.2f}"])


@dataclass(frozen=True)
class ReliabilityBin:
    """Captions of about one probability. expected: its mean; right: the share that holds no wrong word."""

    captions: int
    expected: float
    right: float


def reliability(probability: Mapping[str, float], right: Mapping[str, bool]) -> tuple[list[ReliabilityBin], float]:
    """Whether captions of probability p are right in a share p of the cases: tenths of probability, and the error.

    probability: that a video's caption holds no wrong word; right: whether it holds none. The error is the expected
    calibration error (Guo et al., arXiv 1706.04599, equation 3) over ten bins of equal width.
    Raises ClipcapError when no caption has a probability.
    """
    videos = [video for video in right if math.isfinite(probability.get(video, math.nan))]
    if not videos:
        raise ClipcapError(
            "these captions carry no probabilities; give a predictions.json of a captioner with a consensus network"
        )
    expected = np.array([probability[video] for video in videos])
    hits = np.array([right[video] for video in videos], dtype=float)
    tenth = np.minimum((expected * 10).astype(int), 9)
    bins = [
        ReliabilityBin(int(inside.sum()), float(expected[inside].mean()), float(hits[inside].mean()))
        for inside in (tenth == number for number in range(10))
        if inside.any()
    ]
    return bins, sum(one.captions * abs(one.expected - one.right) for one in bins) / len(videos)


def describe_reliability(bins: list[ReliabilityBin], error: float) -> str:
    """The bins as a table."""
    lines = ["probability   captions   no wrong word"]
    lines += [f"{one.expected:11.2f} {one.captions:10,} {one.right:14.0%}" for one in bins]
    return "\n".join([*lines, f"expected calibration error: {error:.3f}"])
