"""YouCook2: youcookii_annotations_trainval.json, and youcookii_annotations_test_segments_only.json without sentences.

Zhou et al., "Towards Automatic Learning of Procedures from Web Instructional Videos", AAAI 2018. `database` has for
each YouTube id its `duration`, its `subset` and its `annotations`, each a `segment` in seconds with a `sentence`.
"""

from __future__ import annotations

from typing import Any

from clipcap_video.datasets.activitynet import segments
from clipcap_video.datasets.records import VideoRecord, normal_split
from clipcap_video.datasets.source import Source
from clipcap_video.errors import parsing


def matches(source: Source) -> bool:
    return isinstance(source.content, dict) and isinstance(source.content.get("database"), dict)


def read(source: Source) -> list[VideoRecord]:
    """One segment a sentence, in file order."""
    assert source.content is not None
    records: list[VideoRecord] = []
    for video_id, video in source.content["database"].items():
        records += _segments(video_id, video, f"{source.path}: video {video_id!r}")
    return records


def _segments(video_id: str, video: Any, where: str) -> list[VideoRecord]:
    with parsing(where, "expected duration, subset and annotations, each with a segment [start, end]"):
        pairs = [(one["segment"], one.get("sentence", "")) for one in video["annotations"]]
        return segments(video_id, float(video["duration"]), pairs, normal_split(video["subset"]), where)
