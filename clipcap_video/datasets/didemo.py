"""DiDeMo: train_data.json, val_data.json and test_data.json, lists of described moments.

Hendricks et al., "Localizing Moments in Video with Natural Language", ICCV 2017. Each entry has `video` (a file
name), `description`, and `times`: for each annotator the first and the last of the 5-second chunks that are meant.
The moment is the mean over annotators, as CLIP4Clip takes it.
"""

from __future__ import annotations

from typing import Any

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.datasets.tabular import video_id_of
from clipcap_video.errors import parsing
from clipcap_video.video.sampling import Span

CHUNK_SECONDS = 5.0


def matches(source: Source) -> bool:
    entries = source.content
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "description" in entries[0]


def read(source: Source) -> list[VideoRecord]:
    """One segment an entry, in file order."""
    split = source.require_split()
    assert source.content is not None
    return [_segment(entry, split, f"{source.path}: entry {number}") for number, entry in enumerate(source.content)]


def _segment(entry: Any, split: str, where: str) -> VideoRecord:
    with parsing(where, "expected video, description and times, a list of [first, last] chunk"):
        video, description, times = entry["video"], entry["description"], entry["times"]
        first = sum(chunks[0] for chunks in times) / len(times)
        last = sum(chunks[1] for chunks in times) / len(times)
        span = Span(CHUNK_SECONDS * first, CHUNK_SECONDS * (last + 1))
        return VideoRecord.segment(video_id_of(video), split, [description], span)
