"""What the options of an objective imply and refuse."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.objectives.options import SelfCriticalOptions


def test_the_weight_of_a_contrastive_loss_says_that_there_is_one() -> None:
    assert TrainConfig(retrieval_loss=0.1).objective == "contrastive"
    assert TrainConfig(retrieval_loss=0.0).objective == "xe"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "contrastive"}, "needs the weight of its loss; give it with --retrieval_loss"),
        ({"objective": "contrastive", "retrieval_loss": 0.1, "model": "lstm"}, "--model prefix"),
        ({"objective": "scst"}, "starts from a trained captioner; give it with --init_from"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClipcapError, match=sentence):
        TrainConfig(**options)


def test_one_sample_has_no_others_to_be_better_than() -> None:
    trained = SimpleNamespace(init_from=Path("x"), recipe="ours")
    SelfCriticalOptions(samples=2).check(trained)
    SelfCriticalOptions(samples=1, baseline="greedy").check(trained)
    with pytest.raises(ClipcapError, match="--samples must be at least 2 with --baseline mean, not 1"):
        SelfCriticalOptions(samples=1).check(trained)
    with pytest.raises(ClipcapError, match="was trained without an end token, which --objective scst rewards"):
        SelfCriticalOptions().check(SimpleNamespace(init_from=Path("x"), recipe="reference"))
