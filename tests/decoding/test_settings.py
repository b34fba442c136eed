"""Choices that make no sense are refused in one sentence, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.errors import ClipcapError


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"entry_length": 0}, "entry_length"),
        ({"beam_size": 0}, "beam_size"),
        ({"num_return": 0}, "num_return"),
        ({"beam_size": 2, "num_return": 3}, "beam_size"),
        ({"use_beam_search": False, "num_return": 2}, "greedy"),
        ({"use_beam_search": False, "top_p": 0.0}, "top_p"),
        ({"use_beam_search": False, "top_p": 1.1}, "top_p"),
        ({"use_beam_search": False, "top_k": 0}, "top_k"),
        ({"use_beam_search": False, "temperature": 0.0}, "temperature"),
        ({"use_beam_search": False, "temperature": float("nan")}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"temperature": 0.7, "top_k": 3}, "temperature, top_k"),
        ({"sample": True}, "sample"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram"),
        ({"length_penalty": -1.0}, "length_penalty"),
        ({"length_penalty": float("nan")}, "length_penalty"),
    ],
)
def test_nonsense_is_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(ClipcapError, match=named):
        DecodingSettings(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "mode", "lanes"),
    [
        ({}, "beam", 5),
        ({"beam_size": 3, "num_return": 3}, "beam", 3),
        ({"use_beam_search": False}, "greedy", 1),
        ({"use_beam_search": False, "top_p": 0.9, "num_return": 4}, "sample", 4),
        ({"use_beam_search": False, "temperature": 0.7}, "sample", 1),
        ({"use_beam_search": False, "top_k": 5}, "sample", 1),
        ({"use_beam_search": False, "sample": True}, "sample", 1),
    ],
)
def test_mode(options: dict[str, float], mode: str, lanes: int) -> None:
    settings = DecodingSettings(**options)  # type: ignore[arg-type]
    assert (settings.mode, settings.lanes) == (mode, lanes)


def test_mean_logprob_counts_the_stop_token() -> None:
    assert Hypothesis([5, 6], -6.0, 3, True, -2.0, False, 1).mean_logprob == -2.0


def test_settings_do_not_import_torch() -> None:
    code = "import sys, clipcap_video.decoding; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
