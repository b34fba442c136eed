"""Bootstrap confidence intervals of caption scores: how far a figure would move with other videos of the same kind.

Videos are drawn with replacement, as many as there are, many times over (Efron & Tibshirani 1993, ch. 13: percentile
intervals). Every figure is recomputed from what each video adds to it, not averaged from scores of single videos
where the figure is no average: BLEU from the summed n-gram counts and lengths, METEOR from the summed statistics of
its own program. CIDEr and ROUGE-L are means over videos; CIDEr's document frequencies stay those of all references.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipcap_video.errors import ClipcapError

LEVEL = 0.95
# Weights of so many resamples are made at once: 40 MB for 5,000 videos.
_AT_ONCE = 1000


def resample_weights(videos: int, resamples: int, seed: int) -> np.ndarray:
    """How often each video is drawn in each resample: int64 [resamples, videos], rows sum to `videos`.

    Raises ClipcapError when there are too few resamples to speak of 95 %.
    """
    if resamples < 40:
        raise ClipcapError(f"--bootstrap {resamples} is too few resamples for a 95 % interval; 1000 is usual")
    rng = np.random.default_rng(seed)
    parts = [
        rng.multinomial(videos, np.full(videos, 1 / videos), size=min(_AT_ONCE, resamples - start))
        for start in range(0, resamples, _AT_ONCE)
    ]
    return np.concatenate(parts)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled figures [S]."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def meteor_statistics(lines: Sequence[str]) -> np.ndarray:
    """METEOR's statistics of each video, as its program answers them, ready to be summed: float64 [N, 23].

    A caption that equals a reference has one chunk, which that program does not count in a corpus.
    """
    rows = np.array([[float(field) for field in line.split()] for line in lines])
    perfect = (rows[:, 20] == 1) & (rows[:, 21] == rows[:, 0]) & (rows[:, 22] == rows[:, 1])
    rows[perfect, 20] = 0
    return rows
