"""Charades (Charades_v1_train.csv and _test.csv) and Charades-STA (charades_sta_train.txt and _test.txt).

Sigurdsson et al., "Hollywood in Homes", ECCV 2016: the captions are `descriptions`, which people wrote who watched the
video, parted by semicolons; `script` is what it was acted after. Gao et al., "TALL: Temporal Activity Localization via
Language Query", ICCV 2017: VIDEO START END##SENTENCE, in seconds.
"""

from __future__ import annotations

import re

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.errors import ClipcapError, parsing
from clipcap_video.video.sampling import Span

_COLUMNS = ("id", "descriptions")
_TIMED = re.compile(r"(\S+) ([\d.]+) ([\d.]+)\s*##\s*(.*)")


def matches(source: Source) -> bool:
    return source.content is None and (
        {*_COLUMNS, "script"} <= set(source.columns()) or any(_TIMED.fullmatch(line) for line in source.lines()[:1])
    )


def read(source: Source) -> list[VideoRecord]:
    """Videos in file order; or one segment a sentence."""
    split = source.require_split()
    if "script" not in source.columns():
        return [_segment(source, line, split) for line in source.lines()]
    records = []
    for where, row in source.rows(*_COLUMNS):
        if not row["id"].strip():
            raise ClipcapError(f"{source.path}, {where} lacks the field id; add it or remove the line")
        records.append(VideoRecord(row["id"].strip(), split, (row.get("descriptions") or "").split(";")))
    return records


def _segment(source: Source, line: str, split: str) -> VideoRecord:
    match = _TIMED.fullmatch(line)
    if match is None:
        raise ClipcapError(f"{source.path}: the line {line[:60]!r} is not VIDEO START END##SENTENCE")
    with parsing(f"{source.path}: the line {line[:60]!r}", "expected two times in seconds"):
        return VideoRecord.segment(match[1], split, [match[4]], Span(*sorted((float(match[2]), float(match[3])))))
