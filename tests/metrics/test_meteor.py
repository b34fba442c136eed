"""METEOR, of its Java program where there is one."""

from __future__ import annotations

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics import java
from clipcap_video.metrics.bootstrap import resample_weights
from clipcap_video.metrics.captioning import require_figure
from clipcap_video.metrics.meteor import NO_JAVA, Meteor
from tests.metrics.conftest import drawn_corpora

needs_java = pytest.mark.skipif(not java.java_runs(), reason="Java is not installed")


@pytest.mark.slow
@needs_java
def test_meteor_of_resamples_is_that_of_the_drawn_corpora(few) -> None:  # type: ignore[no-untyped-def]
    predictions, references = few
    weights = resample_weights(25, 40, seed=5)[:6]
    _, drawn = java.meteor({video: [text] for video, text in predictions.items()}, references, weights)
    for value, (captions, targets) in zip(drawn, drawn_corpora(few, weights), strict=True):
        expected, nothing = java.meteor({video: [text] for video, text in captions.items()}, targets)
        assert value == pytest.approx(expected, abs=1e-9)
        assert len(nothing) == 0


def test_without_java_it_is_left_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)
    assert Meteor().missing(java=True) is None
    assert Meteor().missing(java=False) == NO_JAVA
    with pytest.raises(ClipcapError, match=r"--best_by METEOR cannot be computed here \(Java is not installed"):
        require_figure("METEOR")
