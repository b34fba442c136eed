"""Curves of confidence as pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.confidence import confidence_curve
from clipcap_video.report.confidence_picture import draw_confidence_curve


def test_the_picture_is_written_and_a_wrong_ending_is_refused(tmp_path: Path) -> None:
    bins, _ = confidence_curve({"a": -1.0, "b": -2.0, "c": -3.0}, {"a": 0.5, "b": 0.4, "c": 0.1})
    image = cv2.imread(str(draw_confidence_curve(bins, tmp_path / "new" / "curve.png")))
    assert image is not None
    assert image.shape[1] > 600
    assert image.std() > 10
    with pytest.raises(ClipcapError, match=r"ends in \.png"):
        draw_confidence_curve(bins, tmp_path / "curve.gif")
