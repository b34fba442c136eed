"""Annotations of your own: CSV, JSONL, or a JSON list, with the fields video, caption and perhaps split.

One caption a row; a row of JSONL may instead hold a list in `captions`. `video` is an id or a file: of a
path, the name without its ending is the id. Without a split, a row belongs to "train".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from clipcap_video.datasets.records import SplitOverlap, VideoRecord, normal_split
from clipcap_video.datasets.source import Source
from clipcap_video.errors import ClipcapError
from clipcap_video.files import parse_json
from clipcap_video.video.files import SUFFIXES

DEFAULT_SPLIT = "train"
_ENDINGS = "|".join(re.escape(suffix) for suffix in SUFFIXES)
_VIDEO_FILE = re.compile(rf"(.+)(?:{_ENDINGS})", re.IGNORECASE)


def matches(source: Source) -> bool:
    # One row of JSONL is one JSON object.
    content = source.content
    return content is None or isinstance(content, list) or (isinstance(content, dict) and "video" in content)


def read(source: Source) -> list[VideoRecord]:
    """Videos in order of first appearance, captions in file order."""
    splits: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    overlaps: dict[str, tuple[str, str]] = {}
    sentence = ""
    for where, row in _rows(source):
        video_id, split, texts = _parse(source, where, row)
        if splits.setdefault(video_id, split) != split:
            overlaps.setdefault(video_id, (splits[video_id], split))
            sentence = sentence or (
                f"{source.path}, {where}: video {video_id!r} is in split {split!r} here and in split "
                f"{splits[video_id]!r} above; a video belongs to one split"
            )
        captions.setdefault(video_id, []).extend(texts)
    if overlaps:
        raise SplitOverlap(sentence, overlaps)
    return [VideoRecord(video_id, split, captions[video_id]) for video_id, split in splits.items()]


def video_id_of(name: str) -> str:
    """The id of a video given by id, file name or path (of either system's kind)."""
    if not any(sign in name for sign in "/\\."):
        return name.strip()
    base = PurePosixPath(name.strip().replace("\\", "/")).name
    # Only the endings of video files are cut: "clip.01" is an id.
    match = _VIDEO_FILE.fullmatch(base)
    return match[1] if match else base


def _rows(source: Source) -> Iterator[tuple[str, Any]]:
    """Each row with its place in the file."""
    if source.content is not None:
        rows = source.content if isinstance(source.content, list) else [source.content]
        for number, row in enumerate(rows):
            yield f"entry {number}", row
    elif source.path.suffix.lower() in (".jsonl", ".ndjson") or source.text.lstrip().startswith("{"):
        # Not splitlines(): JSON strings may hold U+2028 and the like.
        for number, line in enumerate(source.text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", _parse_line(source, number, line)
    else:
        yield from source.rows("video", "caption")


def _parse_line(source: Source, number: int, line: str) -> Any:
    try:
        return parse_json(line)
    except json.JSONDecodeError as error:
        raise ClipcapError(
            f"{source.path}, line {number} is not JSON (column {error.colno}: {error.msg}); JSONL has one object a line"
        ) from None


def _parse(source: Source, where: str, row: Any) -> tuple[str, str, list[str]]:
    """Video id, split and captions of one row."""
    where = f"{source.path}, {where}"
    if not isinstance(row, dict):
        raise ClipcapError(f"{where} is not an object; expected the fields video and caption")
    video = row.get("video")
    if type(video) is int:  # an id, as tables and JSON have numbers
        video = str(video)
    if not isinstance(video, str) or not video_id_of(video):
        raise ClipcapError(f"{where} lacks the field video; give the video's id or file name")
    split = row.get("split")
    if split is not None and not isinstance(split, str):
        raise ClipcapError(f"{where}: the field split is not text; give a name such as train or test")
    captions = row["captions"] if "captions" in row else [row.get("caption")]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ClipcapError(f"{where} lacks the field caption; give a text, or a list of texts in captions")
    return video_id_of(video), normal_split(split or "") or DEFAULT_SPLIT, captions
