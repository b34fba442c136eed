"""LSMDC 2016: tab-separated files without a header, one clip and sentence a line.

Rohrbach et al., "Movie Description", IJCV 2017. A line is clip id, start and end as aligned, start and end of the
extracted file (hh.mm.ss.ms), sentence; the blind test has no sentences. Clips are files of their own, so their times
in the film mean nothing here. A clip may have several lines.
"""

from __future__ import annotations

import re

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.errors import ClipcapError

_TIME = r"\d\d\.\d\d\.\d\d\.\d{3}"
_CLIP = re.compile(rf"\d{{4}}_.+_{_TIME}-{_TIME}")


def matches(source: Source) -> bool:
    return any("\t" in line and _CLIP.fullmatch(line.split("\t")[0]) for line in source.lines()[:1])


def read(source: Source) -> list[VideoRecord]:
    """Clips in order of first appearance, of the split that the file's name tells."""
    split = source.require_split()
    captions: dict[str, list[str]] = {}
    for line in source.lines():
        cells = line.split("\t")
        if len(cells) not in (5, 6) or not _CLIP.fullmatch(cells[0]):
            raise ClipcapError(
                f"{source.path}: the line {line[:60]!r} is not a clip id, four times and a sentence, parted by tabs; "
                "fix or remove it"
            )
        captions.setdefault(cells[0], []).extend(cells[5:])
    return [VideoRecord(clip, split, texts) for clip, texts in captions.items()]
