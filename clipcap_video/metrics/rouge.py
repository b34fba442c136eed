"""ROUGE-L, of the official scorer."""

from __future__ import annotations

import numpy as np

from clipcap_video.metrics.base import Figures, Metric, Tokens, mean_figures


class Rouge(Metric):
    """F-measure of the longest common subsequence with the best reference, mean over the videos."""

    def score(self, hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> Figures:
        from pycocoevalcap.rouge.rouge import Rouge as Scorer

        _, values = Scorer().compute_score(targets, hypotheses)
        # The scorer takes "" for a word of its own, which an empty reference then matches.
        scores = {
            video: score if tokens[0] else 0.0
            for (video, tokens), score in zip(hypotheses.items(), values.tolist(), strict=True)
        }
        return mean_figures("ROUGE_L", scores, weights)
