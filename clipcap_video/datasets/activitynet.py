"""ActivityNet Captions: train.json, val_1.json and val_2.json, videos with timed sentences.

Krishna et al., "Dense-Captioning Events in Videos", ICCV 2017. Each video has `duration`, `timestamps` (a list of
[start, end] in seconds) and `sentences`. The two val files describe the same videos, by different people. Ids start
with "v_", as the published files do; some copies of the videos are named without.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.errors import parsing
from clipcap_video.video.sampling import Span


def matches(source: Source) -> bool:
    first = next(iter(source.content.values()), None) if isinstance(source.content, dict) else None
    return isinstance(first, dict) and "timestamps" in first


def read(source: Source) -> list[VideoRecord]:
    """One segment a sentence, in file order."""
    split = source.require_split()
    assert source.content is not None
    return [
        record
        for video_id, video in source.content.items()
        for record in _segments(video_id, video, split, f"{source.path}: video {video_id!r}")
    ]


def _segments(video_id: str, video: Any, split: str, where: str) -> list[VideoRecord]:
    aliases = (video_id.removeprefix("v_"),) if video_id.startswith("v_") else (f"v_{video_id}",)
    with parsing(where, "expected duration, timestamps (a list of [start, end]) and as many sentences"):
        pairs = list(zip(video["timestamps"], video["sentences"], strict=True))
        return segments(video_id, float(video["duration"]), pairs, split, where, aliases)


def segments(
    video_id: str, duration: float, pairs: list[tuple[Any, str]], split: str, where: str, aliases: tuple[str, ...] = ()
) -> list[VideoRecord]:
    """One segment each of `pairs`, ([start, end] in seconds, sentence), within the duration; says which were reversed.

    Raises ValueError, or whatever a malformed time does, for `parsing` to tell.
    """
    if not all(math.isfinite(float(time)) for times, _ in pairs for time in (duration, *times)):
        raise ValueError("a time is no finite number")
    # A few of ActivityNet's published times are reversed, or run past the end.
    if turned := sum(times[0] > times[1] for times, _ in pairs):
        print(f"{where}: {turned} of its segments end before they start; read the other way round", file=sys.stderr)
    spans = [Span(*sorted(min(max(float(time), 0.0), duration) for time in times)) for times, _ in pairs]
    return [
        VideoRecord.segment(video_id, split, [sentence], span, aliases)
        for span, (_, sentence) in zip(spans, pairs, strict=True)
    ]
