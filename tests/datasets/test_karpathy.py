"""Karpathy's splits of COCO and Flickr."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from tests.datasets.published import KARPATHY, karpathy_image, write


def test_karpathys_splits_of_coco(tmp_path: Path) -> None:
    assert read_annotations([write(tmp_path / "dataset_coco.json", KARPATHY)]) == [
        VideoRecord("391895", "test", ["A man on a bike."], aliases=("COCO_val2014_000000391895",)),
        VideoRecord("60623", "train", ["A girl", "Two girls"], aliases=("COCO_val2014_000000060623",)),
    ]


def test_karpathys_flickr_goes_by_file_names(tmp_path: Path) -> None:
    content = {"images": [karpathy_image("1000092795.jpg", "val", "Two men.")], "dataset": "flickr30k"}
    path = write(tmp_path / "dataset_flickr30k.json", content)
    assert read_annotations([path]) == [VideoRecord("1000092795", "validate", ["Two men."])]
