"""What the tests of this room share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def magic() -> dict[str, dict[str, list[str]]]:
    return json.loads((DATA / "flickr30k-magic.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def few() -> tuple[dict[str, str], dict[str, list[str]]]:
    """25 videos; of some the caption is a reference, or hardly a sentence."""
    magic = json.loads((DATA / "flickr30k-magic.json").read_text(encoding="utf-8"))
    videos = sorted(magic["predictions"])[:25]
    predictions = {video: magic["predictions"][video] for video in videos}
    references = {video: magic["references"][video] for video in videos}
    for video in videos[:4]:
        predictions[video] = references[video][1]
    predictions[videos[5]] = "a"
    return predictions, references


def drawn_corpora(
    few: tuple[dict[str, str], dict[str, list[str]]], weights: np.ndarray
) -> list[tuple[dict[str, str], dict[str, list[str]]]]:
    """The corpora that the weights stand for; a video drawn twice is there twice, under two names."""
    predictions, references = few
    corpora = []
    for row in weights:
        names = [
            (f"{video}-{turn}", video) for video, count in zip(predictions, row, strict=True) for turn in range(count)
        ]
        corpora.append(({n: predictions[v] for n, v in names}, {n: references[v] for n, v in names}))
    return corpora
