"""Bare lists of the videos of one split: one id a line, a table of one column, or a JSON list of ids.

The file's name tells the split: train_list.txt, val_list.txt and test_list.txt of MSVD and DiDeMo,
MSRVTT_train.9k.csv, train_ids.json of ActivityNet Captions.
"""

from __future__ import annotations

from clipcap_video.datasets.records import Listing, VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.datasets.tabular import video_id_of

HEADERS = ("video_id", "video", "id")


def matches(source: Source) -> bool:
    return bool(_names(source))


def read(source: Source) -> Listing:
    """The videos in file order, without captions."""
    split = source.require_split()
    return Listing([VideoRecord(video_id_of(name), split) for name in dict.fromkeys(_names(source))])


def _names(source: Source) -> list[str]:
    """The listed ids; none where the file is something else."""
    if isinstance(source.content, list):
        return source.content if all(isinstance(name, str) for name in source.content) else []
    lines = source.lines()
    if any(set(line) & set(" \t,;{}[]") for line in lines):
        return []
    return lines[1:] if lines and lines[0].strip('"').lower() in HEADERS else lines
