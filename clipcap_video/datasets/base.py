"""What every reader of annotation files offers."""

from __future__ import annotations

from typing import Protocol

from clipcap_video.datasets.records import Listing, VideoRecord
from clipcap_video.datasets.source import Source


class Reader(Protocol):
    """A module, or anything else with these two."""

    def matches(self, source: Source) -> bool: ...

    def read(self, source: Source) -> list[VideoRecord] | Listing: ...
