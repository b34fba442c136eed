"""YouCook2's steps of recipes."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from tests.datasets.published import YOUCOOK2, write


def test_youcook2(tmp_path: Path) -> None:
    path = write(tmp_path / "youcookii_annotations_trainval.json", YOUCOOK2)
    records = read_annotations([path])
    assert [(record.video_id, record.split, record.captions) for record in records] == [
        ("GLd3aX16zBg@90.00-102.00", "train", ["spread margarine on two slices of white bread"]),
        ("GLd3aX16zBg@114.00-241.62", "train", ["place cheese on top"]),
        ("xHr8X2Wpmno@1.00-4.00", "test", []),
    ]
    assert read_annotations([path], paragraphs=True)[0].captions == [
        "spread margarine on two slices of white bread place cheese on top"
    ]
