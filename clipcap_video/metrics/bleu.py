"""BLEU-1 to 4, of the official scorer."""

from __future__ import annotations

import numpy as np

from clipcap_video.metrics.base import Figures, Metric, Tokens


class Bleu(Metric):
    """Of the corpus, from the summed n-gram counts and lengths of its videos."""

    def score(self, hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> Figures:
        from pycocoevalcap.bleu.bleu import Bleu as Scorer

        values, _ = Scorer(4).compute_score(targets, hypotheses, verbose=0)
        scores = {f"Bleu_{n}": float(value) for n, value in enumerate(values, start=1)}
        if weights is None:
            return Figures(scores)
        resampled = bleu(weights @ bleu_counts(hypotheses, targets))
        return Figures(scores, {f"Bleu_{n}": resampled[:, n - 1] for n in range(1, 5)})


def bleu_counts(hypotheses: Tokens, targets: Tokens) -> np.ndarray:
    """What each video adds to BLEU: float64 [N, 10], of caption length, reference length, 4 guessed and 4 correct.

    The reference length is that of the closest reference, as in the official evaluation.
    """
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test

    rows = []
    for video, (hypothesis,) in hypotheses.items():
        lengths, counts = cook_refs(targets[video])
        cooked = cook_test(hypothesis, (lengths, counts))
        length = cooked["testlen"]
        closest = min((abs(other - length), other) for other in lengths)[1]
        rows.append([length, closest, *cooked["guess"], *cooked["correct"]])
    return np.array(rows, dtype=np.float64)


def bleu(totals: np.ndarray) -> np.ndarray:
    """BLEU-1 to 4 from summed counts [..., 10] -> [..., 4], with the official evaluation's tiny constants."""
    small, tiny = 1e-9, 1e-15
    length, reference, guessed, correct = totals[..., 0], totals[..., 1], totals[..., 2:6], totals[..., 6:10]
    precisions = (correct + tiny) / (guessed + small)
    means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, 5))
    ratio = (length + tiny) / (reference + small)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return means * brevity[..., None]
