"""What the options of each kind of captioner imply and refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.models.options import LstmOptions, PrefixOptions
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.models.recurrent import RecurrentCaptioner
from clipcap_video.training.config import TrainConfig


def test_each_kind_knows_its_class() -> None:
    assert PrefixOptions.captioner_class() is PrefixCaptioner
    assert LstmOptions.captioner_class() is RecurrentCaptioner


def test_cross_is_spelled_in_two_ways() -> None:
    for options in ({"cross": True}, {"mapping_type": "cross"}, {"mapping_type": "transformer", "cross": True}):
        assert TrainConfig(**options).mapping_type == "cross"


def test_a_recipe_sets_what_was_left_open_and_no_more() -> None:
    plain, reference = TrainConfig(), TrainConfig(recipe="reference", weight_decay=0.5)
    assert (reference.lr, reference.warmup_steps, reference.captions_per_video) == (2e-5, 5000, 1)
    assert reference.weight_decay == 0.5
    assert plain.lr != reference.lr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"origin_token": True, "caption": [Path("a.csv")]}, "tells several annotation files apart, and there is one"),
        ({"model": "lstm", "train_encoder": "all"}, "trains on frames; give the videos with --videos"),
        ({"lm_lr": 1e-3, "only_prefix": True}, "--lm_lr has no effect with --only_prefix"),
        ({"text_noise": 0.3}, "--text_noise belongs to --text_only"),
        ({"min_count": 2}, "--min_count belongs to --model lstm"),
        ({"model": "lstm", "lm": "gpt2-large"}, "--lm belongs to --model prefix"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClipcapError, match=sentence):
        TrainConfig(**options)
