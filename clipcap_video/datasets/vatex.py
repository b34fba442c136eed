"""VATEX: vatex_training_v1.0.json, vatex_validation_v1.0.json, vatex_public_test_english_v1.1.json.

Wang et al., "VaTeX: A Large-Scale, High-Quality Multilingual Dataset for Video-and-Language Research", ICCV 2019. Each
entry has `videoID` (YOUTUBE_START_END) and ten captions each in `enCap` and `chCap`; a private test has neither.
"""

from __future__ import annotations

from typing import Any

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.errors import parsing

CAPTIONS = ("enCap", "chCap")


def matches(source: Source) -> bool:
    entries = source.content
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "videoID" in entries[0]


def read(source: Source) -> list[VideoRecord]:
    """Clips in file order; their English captions, or the Chinese ones of a file without English ones."""
    split = source.require_split()
    entries: list[Any] = source.content or []
    language = next((name for name in CAPTIONS if name in entries[0]), CAPTIONS[0])
    records = []
    for number, entry in enumerate(entries):
        with parsing(f"{source.path}: entry {number}", "expected videoID, and a list of captions in enCap or chCap"):
            records.append(VideoRecord(entry["videoID"], split, list(entry.get(language, []))))
    return records
