"""WebVid-2M and -10M: results_2M_train.csv, results_2M_val.csv and their like, with videoid, page_dir and name.

Bain et al., "Frozen in Time: A Joint Video and Image Encoder for End-to-End Retrieval", ICCV 2021. A video is the file
PAGE_DIR/VIDEOID.mp4, and `name` is its caption.
"""

from __future__ import annotations

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.errors import ClipcapError

_COLUMNS = ("videoid", "name")


def matches(source: Source) -> bool:
    return source.content is None and {*_COLUMNS, "page_dir"} <= set(source.columns())


def read(source: Source) -> list[VideoRecord]:
    """Videos in order of first appearance."""
    split = source.require_split()
    captions: dict[str, list[str]] = {}
    for where, row in source.rows(*_COLUMNS):
        if not row["videoid"].strip():
            raise ClipcapError(f"{source.path}, {where} lacks the field videoid; add it or remove the line")
        captions.setdefault(row["videoid"].strip(), []).append(row.get("name") or "")
    return [VideoRecord(video_id, split, texts) for video_id, texts in captions.items()]
