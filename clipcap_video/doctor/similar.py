"""Videos that look much the same, found by the features that exist already: re-encoded, cut or scaled copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipcap_video.doctor.findings import Finding
from clipcap_video.features.layouts import open_features

# Cosines are computed for so many videos at a time.
CHUNK = 1024


def find_similar(data: Path, threshold: float) -> list[Finding]:
    """A finding for each group of videos of which each is as similar to another as `threshold` asks.

    data: a feature store; videos whose features cannot be read are left out, for they are a finding by themselves.
    """
    store = open_features(data)
    videos = store.load_sound(store.ids(), {})
    names = list(videos)
    groups = group([video.features for video in videos.values()], threshold)
    findings = []
    for members, least in groups:
        ids = [names[member] for member in members]
        files = tuple(dict.fromkeys(str(store.file(name)) for name in ids))
        findings.append(Finding("similar", ids[0], f"{', '.join(ids)} (cosine {least:.3f} and more)", files))
    return findings


def group(features: Sequence[np.ndarray], threshold: float) -> list[tuple[list[int], float]]:
    """Groups of at least two videos that chains of similar pairs join, with the lowest cosine among those pairs.

    features: float32 [T, D] each. A pair is similar where the cosine of the means over frames is `threshold` or more.
    """
    if len(features) < 2:
        return []
    means = np.stack([video.mean(axis=0) for video in features]).astype(np.float32)  # [N, D]
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    first = list(range(len(means)))  # each video's representative, towards the root of its group

    def root(video: int) -> int:
        while first[video] != video:
            first[video] = video = first[first[video]]
        return video

    least: dict[int, float] = {}
    for start in range(0, len(means), CHUNK):
        cosines = means[start : start + CHUNK] @ means.T  # [<= CHUNK, N]
        for row, column in np.argwhere(cosines >= threshold):
            one, other = start + int(row), int(column)
            if one < other:
                low, high = sorted((root(one), root(other)))
                first[high] = low
                cosine = float(cosines[row, column])
                least[low] = min(cosine, least.pop(high, cosine) if high != low else cosine, least.get(low, cosine))
    members: dict[int, list[int]] = {}
    for video in range(len(means)):
        members.setdefault(root(video), []).append(video)
    return [(found, least[first_of]) for first_of, found in members.items() if len(found) > 1]
