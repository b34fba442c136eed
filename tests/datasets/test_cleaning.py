"""Captions that say their verb twice."""

from __future__ import annotations

import pytest

from clipcap_video.datasets.cleaning import fix_caption, fix_captions
from clipcap_video.datasets.records import VideoRecord


@pytest.mark.parametrize(
    ("caption", "fixed"),
    [
        ("there is a man is talking to a woman", "a man is talking to a woman"),
        ("There is a man in a white shirt is singing.", "A man in a white shirt is singing."),
        ("there are two men are fighting", "two men are fighting"),
        ("there was a dog was running", "a dog was running"),
    ],
)
def test_the_first_verb_goes(caption: str, fixed: str) -> None:
    assert fix_caption(caption) == fixed


@pytest.mark.parametrize(
    "caption",
    [
        "there is a man talking to a woman",
        "there is a man who is talking",
        "there is a man and he is talking",
        "there is a place, where it is cold",
        "a man is talking while a dog is running",
        "a man says there is a dog",
        "there is",
        "",
    ],
)
def test_others_stay(caption: str) -> None:
    assert fix_caption(caption) == caption


def test_records_keep_all_else() -> None:
    record = VideoRecord("v", "train", ["there is a cat is asleep", "a cat"])
    (fixed,) = fix_captions([record])
    assert fixed == VideoRecord("v", "train", ["a cat is asleep", "a cat"])
