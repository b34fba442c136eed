"""Charades and Charades-STA."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.video.sampling import Span
from tests.datasets.published import CHARADES, write


def test_charades(tmp_path: Path) -> None:
    assert read_annotations([write(tmp_path / "Charades_v1_train.csv", CHARADES)]) == [
        VideoRecord("YSKX3", "train", ["A person puts a picture on the wall, then leaves.", "They look at it."]),
        VideoRecord("00607", "train", []),
    ]
    timed = write(tmp_path / "charades_sta_test.txt", "3MSZA 24.3 30.4##person turn a light on.\n")
    assert read_annotations([timed]) == [
        VideoRecord.segment("3MSZA", "test", ["person turn a light on."], Span(24.3, 30.4))
    ]
