"""Flickr30k and Flickr8k: results_20130124.token, Flickr8k.token.txt, or captions.txt (columns image, caption).

Young et al., "From Image Descriptions to Visual Denotations", TACL 2014; Hodosh et al., "Framing Image Description as
a Ranking Task", JAIR 2013. A line is PICTURE.jpg#NUMBER, a tab, a sentence. The splits are lists of pictures
(Flickr_8k.trainImages.txt), or Karpathy's file has all of it.
"""

from __future__ import annotations

import re

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.datasets.tabular import video_id_of
from clipcap_video.errors import ClipcapError

_LINE = re.compile(r"(\S+)#\d+\t\s*(.*)")
_COLUMNS = ["image", "caption"]


def matches(source: Source) -> bool:
    return source.content is None and (
        source.columns() == _COLUMNS or any(_LINE.fullmatch(line) for line in source.lines()[:1])
    )


def read(source: Source) -> list[VideoRecord]:
    """Pictures in order of first appearance, of no split."""
    captions: dict[str, list[str]] = {}
    if source.columns() == _COLUMNS:
        pairs = [(row["image"], row.get("caption") or "") for _, row in source.rows(*_COLUMNS)]
    else:
        pairs = [_parsed(source, line) for line in source.lines()]
    for name, caption in pairs:
        captions.setdefault(video_id_of(name), []).append(caption)
    return [VideoRecord(name, "", texts) for name, texts in captions.items()]


def _parsed(source: Source, line: str) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ClipcapError(f"{source.path}: the line {line[:60]!r} is not PICTURE.jpg#NUMBER, a tab and a sentence")
    return match[1], match[2]
