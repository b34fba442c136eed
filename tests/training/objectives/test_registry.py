"""Objectives by name."""

from __future__ import annotations

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.training.objectives.base import Objective
from clipcap_video.training.objectives.registry import OBJECTIVES


def test_the_options_of_each_know_its_class() -> None:
    assert all(issubclass(options.load_objective(), Objective) for _, options in OBJECTIVES.items())


def test_an_unknown_one_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ClipcapError, match=r"unknown objective 'ppo'.*xe, contrastive, scst"):
        OBJECTIVES.find("ppo")
