"""What every caption metric offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Tokens = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Figures:
    """What a metric makes of a corpus.

    scores: fractions, by figure. drawn: float64 [S] by figure, of S resampled corpora; empty unless asked for.
    per_video: of the metric's figure, by video, where a video has one by itself.
    """

    scores: dict[str, float]
    drawn: dict[str, np.ndarray] = field(default_factory=dict)
    per_video: dict[str, float] = field(default_factory=dict)


class Metric(ABC):
    """Scores of one caption a video against its references, larger being better."""

    def missing(self, java: bool) -> str | None:
        """Why it cannot be computed here, in a sentence; None where it can. java: whether Java may be used."""
        return None

    @abstractmethod
    def score(self, hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> Figures:
        """The figures under whose names it is registered.

        hypotheses: one tokenised caption a video, in a list; targets: its tokenised references, of the same videos in
        the same order. weights: int [S, N], how often each of the N videos counts in each of S corpora drawn from them.
        """


def mean_figures(name: str, values: Mapping[str, float], weights: np.ndarray | None) -> Figures:
    """Of a metric that is the mean of its videos' scores."""
    each = list(values.values())
    drawn = {} if weights is None else {name: weights @ np.array(each) / len(each)}
    return Figures({name: sum(each) / len(each)}, drawn, dict(values))
