"""Annotation readers and the packing of captions with features.

A reader is one module with `matches(source) -> bool` and `read(source) -> list[VideoRecord]`; a new dataset
is such a module and one line here. The first that matches reads the file.
"""

from __future__ import annotations

from typing import Protocol

from clipcap_video.datasets import msrvtt, tabular
from clipcap_video.datasets.records import Source, VideoRecord


class Reader(Protocol):
    """What a reader module offers."""

    def matches(self, source: Source) -> bool: ...

    def read(self, source: Source) -> list[VideoRecord]: ...


READERS: list[Reader] = [
    msrvtt,
    tabular,
]
