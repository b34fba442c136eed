"""The kinds of captioner by name."""

from __future__ import annotations

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.models.registry import CAPTIONERS


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ClipcapError, match=r"unknown model 'gru'.*prefix, lstm"):
        CAPTIONERS.find("gru")
