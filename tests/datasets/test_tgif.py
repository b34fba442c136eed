"""TGIF, whose videos are named by their addresses."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from tests.datasets.published import GIF, write


def test_tgif(tmp_path: Path) -> None:
    captions = write(tmp_path / "tgif-v1.0.tsv", f"{GIF}\ta man is glaring, and someone appears.\n{GIF}\ta cat\n")
    listed = write(tmp_path / "test.txt", f"{GIF}\n")
    assert read_annotations([captions, listed]) == [
        VideoRecord("tumblr_mevmyaKtDf1rgvhr8o1_500", "test", ["a man is glaring, and someone appears.", "a cat"])
    ]
