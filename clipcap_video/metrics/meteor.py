"""METEOR, of its own Java program."""

from __future__ import annotations

import numpy as np

from clipcap_video.metrics import java as java_program
from clipcap_video.metrics.base import Figures, Metric, Tokens

NO_JAVA = (
    "Java is not installed: METEOR is left out, and captions were tokenised by the Python rendering of the PTB rules"
)


class Meteor(Metric):
    """METEOR 1.5 of the corpus."""

    def missing(self, java: bool) -> str | None:
        return None if java else NO_JAVA

    def score(self, hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> Figures:
        score, drawn = java_program.meteor(hypotheses, targets, weights)
        return Figures({"METEOR": score}, {} if weights is None else {"METEOR": drawn})
