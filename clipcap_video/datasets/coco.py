"""Captions as COCO publishes them: one JSON object with `images` and `annotations`.

Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server", arXiv 1504.00325. Ids are numbers; a
picture's file name is another name of it. The split is that of the file's name, captions_val2014.json; a file whose
name tells none is one to score against.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.errors import ClipcapError


def matches(source: Source) -> bool:
    content = source.content
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return False
    return any(isinstance(one, dict) and "image_id" in one for one in content["annotations"][:1])


def read(source: Source) -> list[VideoRecord]:
    """Pictures in the order of `images`, captions in that of `annotations`."""
    split = source.split_of_name() or "test"
    content: dict[str, Any] = source.content or {}
    names: dict[str, tuple[str, ...]] = {}
    for index, image in enumerate(content.get("images") or []):
        if not isinstance(image, dict) or type(image.get("id")) not in (int, str):
            raise ClipcapError(f"{source.path}: images[{index}] lacks the field id; fetch the file again")
        file = image.get("file_name")
        names[str(image["id"])] = (PurePosixPath(file).stem,) if isinstance(file, str) else ()
    captions: dict[str, list[str]] = {image_id: [] for image_id in names}
    for index, one in enumerate(content["annotations"]):
        image_id, caption = (one.get("image_id"), one.get("caption")) if isinstance(one, dict) else (None, None)
        if type(image_id) not in (int, str) or not isinstance(caption, str):
            raise ClipcapError(
                f"{source.path}: annotations[{index}] lacks an image_id or a caption; give a file of captions"
            )
        captions.setdefault(str(image_id), []).append(caption)
    return [
        VideoRecord(image_id, split, texts, aliases=names.get(image_id, ())) for image_id, texts in captions.items()
    ]
