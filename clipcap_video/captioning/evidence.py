"""Evidence: how much each frame mattered for a caption, found by leaving it out.

A stretch of frames is taken away, as if the video had never had it, and the same caption is scored again; the
log-probability that is lost is what the caption owed to the stretch. This holds for every model that can step, and it
is about the caption at hand. Attention of the prefix to the frames is not: it is the same for every caption, and high
for frames that are merely unlike the others (docs/report.md has the comparison).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from clipcap_video.captioning.predictions import FrameEvidence, Prediction
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.devices import autocast
from clipcap_video.features.base import FeatureStore, stack_features, thin_frames
from clipcap_video.models.base import CaptionModel

# Neighbouring frames of a video show much the same: one alone is hardly missed, and a page has room for so many.
STRETCHES = 8


def stretches(frames: int, most: int = STRETCHES) -> list[tuple[int, int]]:
    """First and last position of at most `most` stretches that cover `frames` frames, as equal as can be."""
    parts = np.array_split(np.arange(frames), max(1, min(frames, most)))
    return [(int(part[0]), int(part[-1])) for part in parts if len(part)]


def explain(
    model: CaptionModel,
    store: FeatureStore,
    predictions: Sequence[Prediction],
    device: torch.device,
    precision: str,
    *,
    batch_size: int = 256,
) -> list[Prediction]:
    """The predictions with the evidence of their best captions.

    model: the captioner's, on `device`; it scores in `precision` (fp32, bf16). store: the features
    that they were made from; predictions of videos that it lacks, of one frame, or without a caption, come back as they
    are. batch_size: captions scored at once.
    """
    explained = list(predictions)
    pending: list[tuple[int, tuple[int, int] | None, np.ndarray, list[int]]] = []
    scores_of: dict[int, list[tuple[tuple[int, int] | None, float]]] = {}

    def flush() -> None:
        scores = _score(model, device, precision, [row[2] for row in pending], [row[3] for row in pending])
        for (index, stretch, _, _), score in zip(pending, scores, strict=True):
            scores_of.setdefault(index, []).append((stretch, score))
        pending.clear()

    for index, prediction in enumerate(predictions):
        tokens = _tokens(model, prediction.text)
        if not tokens or prediction.video not in store:
            continue
        video = thin_frames(store.load(prediction.video), model.max_frames)
        features = video.features
        parts = stretches(len(features))
        if len(parts) < 2:
            continue
        pending.append((index, None, features, tokens))
        pending.extend(
            (index, (first, last), np.delete(features, slice(first, last + 1), axis=0), tokens) for first, last in parts
        )
        if len(pending) >= batch_size:
            flush()
    if pending:
        flush()
    for index, scores in scores_of.items():
        (_, whole), *without = scores
        evidence = [
            FrameEvidence(stretch[0], stretch[1], whole - score) for stretch, score in without if stretch is not None
        ]
        explained[index] = replace(predictions[index], evidence=evidence)
    return explained


def _tokens(model: CaptionModel, text: str) -> list[int]:
    # Prefix and caption fitted the language model when the caption was written.
    return model.encode_caption(text, 10**6) if text else []


@torch.inference_mode()
def _score(
    model: CaptionModel,
    device: torch.device,
    precision: str,
    features: Sequence[np.ndarray],
    texts: Sequence[list[int]],
) -> list[float]:
    stacked, mask = (part.to(device) for part in stack_features(features))
    with autocast(device, precision):
        # The end token needs no room of its own: nothing follows it.
        state = model.start(stacked, mask, max(1, max(map(len, texts)) - 1))
        return forced_logprobs(state, texts).tolist()
