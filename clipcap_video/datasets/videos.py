"""Which video files annotations speak of, and which parts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import Span


@dataclass(frozen=True)
class AnnotatedVideos:
    """videos: id -> file; spans: id of a segment -> part of its file; missing: ids of videos without a file."""

    videos: dict[str, Path] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def match_videos(records: Sequence[VideoRecord], files: Mapping[str, Path]) -> AnnotatedVideos:
    """Finds the video of each record among `files` (id -> path), under its id or another of its names.

    Raises ClipcapError when there is none.
    """
    found = AnnotatedVideos()
    missing: dict[str, None] = {}  # as an ordered set: a video has many segments
    for record in records:
        name = next((name for name in (record.source, *record.aliases) if name in files), None)
        if name is None:
            missing[record.source] = None
        elif record.span is None:
            found.videos[name] = files[name]
        else:
            found.videos[record.video_id] = files[name]
            found.spans[record.video_id] = record.span
    if not found.videos:
        raise ClipcapError(
            f"none of the {len(files):,} videos is in the annotations; check that their ids agree, e.g. "
            f"{next(iter(files))!r} there and {records[0].source!r} here"
        )
    found.missing.extend(missing)
    return found
