"""How sure a captioner may be of its words: its consensus network calibrated on the captions of a validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.consensus.caution import all_right
from clipcap_video.consensus.network import Calibration
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.features.base import FeatureStore
from clipcap_video.metrics.cider import caption_words

# Of the captions that are not unsure, the share that shall hold no wrong word.
RIGHT = 0.85
# Fewer videos tell nothing.
FEWEST = 20
# Keeps the fit finite where sureness tells right from wrong without a mistake.
RIDGE = 1.0


def calibrate(
    file: Path, store: FeatureStore, records: Sequence[VideoRecord], caution: float, device: str = "auto"
) -> str:
    """Fits the probability that a caption holds no wrong word, for captions chosen with `caution` and without.

    A caption holds none if each of its content words, endings left out, is in one of the video's references.
    file: the network, in a captioner's checkpoint, which is written again. Returns a sentence about it.
    """
    if len(records) < FEWEST:
        return f"not calibrated: the validation split has {len(records)} videos, and {FEWEST} are needed"
    captioner = Captioner.from_pretrained(file.parent, device=device)
    ranker = captioner.ranker
    assert ranker is not None
    ranker.config = replace(ranker.config, calibrations=())
    references = {record.video_id: [caption_words(text) for text in record.captions] for record in records}
    fitted, said = [], []
    for each in dict.fromkeys((caution, 0.0)):
        settings = replace(captioner.default_settings(), caution=each)
        best = [one.captions[0] for one in captioner.caption_store(store, list(references), settings)]
        written = zip(best, references.values(), strict=True)
        right = np.array([all_right(caption_words(one.text), texts) for one, texts in written])
        sureness = np.array([one.probability for one in best])
        calibration = fit(sureness, right, each)
        kept = np.array([calibration.probability(one) >= calibration.unsure_below for one in sureness])
        said.append(
            f"caution {each:g}: {right.mean():.0%} of the captions hold no wrong word; of the {kept.mean():.0%} that "
            f"are sure, {right[kept].mean() if kept.any() else 1:.0%}"
        )
        fitted.append(calibration)
    ranker.config = replace(ranker.config, calibrations=tuple(fitted))
    ranker.save(file)
    return "; ".join(said)


def fit(sureness: np.ndarray, right: np.ndarray, caution: float) -> Calibration:
    """Logistic regression on the logit of sureness [n] (Platt scaling), and a threshold.

    The threshold is the lowest at which RIGHT of the captions above it hold no wrong word: right [n] bool.
    """
    clipped = np.clip(sureness, 1e-3, 1 - 1e-3)
    inputs = np.stack([np.log(clipped / (1 - clipped)), np.ones(len(clipped))], axis=1)
    weights, ridge = np.zeros(2), RIDGE / len(right)
    for _ in range(50):  # Newton's method
        probabilities = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (probabilities - right) / len(right) + ridge * weights
        curvature = (inputs * (probabilities * (1 - probabilities))[:, None]).T @ inputs / len(right) + RIDGE * np.eye(
            2
        )
        weights -= np.linalg.solve(curvature, gradient)
    calibration = Calibration(caution, max(float(weights[0]), 0.0), float(weights[1]))
    descending = np.argsort(-sureness, kind="stable")
    share = np.cumsum(right[descending]) / np.arange(1, len(right) + 1)
    enough = np.flatnonzero(share >= RIGHT)
    threshold = calibration.probability(float(sureness[descending][enough[-1]])) if len(enough) else 1.0
    return replace(calibration, unsure_below=threshold)
