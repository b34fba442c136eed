"""Multi30k's captions beside its list of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from tests.datasets.published import write


def test_multi30k_beside_its_list_of_pictures(tmp_path: Path) -> None:
    for folder in ("raw", "image_splits"):
        (tmp_path / folder).mkdir()
    german = write(tmp_path / "raw" / "train.de", "Zwei junge weiße Männer sind im Freien.\nEin Mann\u2028schläft.\n")
    with pytest.raises(ClipcapError, match=r"put Multi30k's list of them, image_splits/train\.txt, beside it"):
        read_annotations([german])
    pictures = write(tmp_path / "image_splits" / "train.txt", "1000092795.jpg\n10002456.jpg\n")
    expected = [
        VideoRecord("1000092795", "train", ["Zwei junge weiße Männer sind im Freien."]),
        VideoRecord("10002456", "train", ["Ein Mann schläft."]),
    ]
    assert read_annotations([german]) == expected
    assert read_annotations([german.rename(tmp_path / "raw" / "train.1.de")]) == expected
    write(pictures, "1000092795.jpg\n")
    with pytest.raises(ClipcapError, match=r"has 2 lines and .*train\.txt has 1"):
        read_annotations([tmp_path / "raw" / "train.1.de"])
