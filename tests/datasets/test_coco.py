"""COCO's own caption files."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from tests.datasets.published import write


def test_coco_captions_go_by_the_number_too(tmp_path: Path) -> None:
    content = {
        "info": {}, "licenses": [], "type": "captions",
        "images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "width": 640, "height": 360}],
        "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with a red helmet"}],
    }  # fmt: skip
    path = write(tmp_path / "captions_val2014.json", content)
    assert read_annotations([path]) == [
        VideoRecord("391895", "validate", ["A man with a red helmet"], aliases=("COCO_val2014_000000391895",))
    ]
