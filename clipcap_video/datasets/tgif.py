"""TGIF: tgif-v1.0.tsv, a URL and a sentence a line, with the splits train.txt, val.txt and test.txt as lists of URLs.

Li et al., "TGIF: A New Dataset and Benchmark on Animated GIF Description", CVPR 2016. A GIF goes by its file's name.
"""

from __future__ import annotations

import re

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.datasets.tabular import video_id_of
from clipcap_video.errors import ClipcapError

_LINE = re.compile(r"(https?://\S+\.gif)\t(.*)")


def matches(source: Source) -> bool:
    return any(_LINE.fullmatch(line) for line in source.lines()[:1])


def read(source: Source) -> list[VideoRecord]:
    """GIFs in order of first appearance, of no split."""
    captions: dict[str, list[str]] = {}
    for line in source.lines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ClipcapError(f"{source.path}: the line {line[:60]!r} is not the URL of a GIF, a tab and a sentence")
        captions.setdefault(video_id_of(match[1]), []).append(match[2])
    return [VideoRecord(name, "", texts) for name, texts in captions.items()]
