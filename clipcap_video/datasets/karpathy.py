"""Karpathy's splits of COCO, Flickr30k and Flickr8k: dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json.

Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015. Of COCO,
"restval" is trained on, as everybody does: 113,287 pictures, 5,000 to validate, 5,000 to test.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from clipcap_video.datasets.records import VideoRecord, normal_split
from clipcap_video.datasets.source import Source
from clipcap_video.errors import parsing


def matches(source: Source) -> bool:
    images = source.content.get("images") if isinstance(source.content, dict) else None
    return isinstance(images, list) and any(isinstance(one, dict) and "sentences" in one for one in images[:1])


def read(source: Source) -> list[VideoRecord]:
    """Pictures in file order; COCO's go by their number, like those of captions_*.json."""
    content: dict[str, Any] = source.content or {}
    return [_picture(image, f"{source.path}: images[{index}]") for index, image in enumerate(content["images"])]


def _picture(image: Any, where: str) -> VideoRecord:
    with parsing(where, "expected filename, split and sentences, each with its raw text"):
        name, split = PurePosixPath(image["filename"]).stem, normal_split(image["split"])
        captions = [sentence["raw"] for sentence in image["sentences"]]
        number = str(image["cocoid"]) if "cocoid" in image else None
        split = "train" if split == "restval" else split
        return VideoRecord(number or name, split, captions, aliases=(name,) if number else ())
