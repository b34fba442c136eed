"""Which captions a run learns."""

from __future__ import annotations

from typing import Any

import pytest

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import cleaned

CAPTIONS = ["There is a man is riding .", "A dog runs."]


@pytest.mark.parametrize(
    ("options", "captions"),
    [
        ({}, ["A man is riding .", "A dog runs."]),
        ({"raw_captions": True}, CAPTIONS),
        ({"lower_case": True}, ["a man is riding", "a dog runs"]),
        ({"recipe": "reference"}, CAPTIONS[:1]),  # the first one, as it is
    ],
)
def test_captions_that_are_learned(options: dict[str, Any], captions: list[str]) -> None:
    (record,) = cleaned(TrainConfig(**options), [VideoRecord("a", "train", CAPTIONS)])
    assert list(record.captions) == captions
