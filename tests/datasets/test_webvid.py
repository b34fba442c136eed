"""WebVid's tables."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from tests.datasets.published import WEBVID, write


def test_webvid(tmp_path: Path) -> None:
    path = write(tmp_path / "results_2M_train.csv", WEBVID)
    assert read_annotations([path]) == [VideoRecord("21179416", "train", ["Aerial shot winter forest, day"])]
