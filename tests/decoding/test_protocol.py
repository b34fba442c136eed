"""Which stop tokens a decoder takes."""

from __future__ import annotations

import pytest

from clipcap_video.decoding.protocol import checked_stop_tokens
from clipcap_video.errors import ClipcapError
from tests.decoding_models import captions_of, random_logits


@pytest.mark.parametrize("stops", [[], [6], [-1]])
def test_stop_tokens_are_checked(stops: list[int]) -> None:
    with pytest.raises(ClipcapError, match="stop token"):
        captions_of(random_logits(0, 6), ["a"], stop=stops)


def test_stop_tokens_are_ascending_and_each_there_once() -> None:
    assert checked_stop_tokens([5, 2, 5, 0], 6).tolist() == [0, 2, 5]
