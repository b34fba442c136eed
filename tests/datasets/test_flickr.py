"""Flickr8k's tokens and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from tests.datasets.published import write


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Flickr8k.token.txt", "1_a.jpg#0\tA child , in pink .\n1_a.jpg#1\tA girl .\n2_b.jpg.1#0\tA dog .\n"),
        ("captions.txt", 'image,caption\n1_a.jpg,"A child , in pink ."\n1_a.jpg,A girl .\n2_b.jpg.1,A dog .\n'),
    ],
)
def test_flickr8k_with_its_lists(tmp_path: Path, name: str, content: str) -> None:
    lists = [
        write(tmp_path / "Flickr_8k.trainImages.txt", "1_a.jpg\n"),
        write(tmp_path / "Flickr_8k.devImages.txt", "2_b.jpg.1\n"),
    ]
    assert read_annotations([write(tmp_path / name, content), *lists]) == [
        VideoRecord("1_a", "train", ["A child , in pink .", "A girl ."]),
        VideoRecord("2_b.jpg.1", "validate", ["A dog ."]),
    ]
