"""Annotations against features and against video files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord, normal_split, select
from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import Span


@dataclass(frozen=True)
class Matched:
    """Annotations against features."""

    records: list[VideoRecord]
    """Videos that have both."""
    without_features: list[str]
    without_captions: list[str]
    """Ids of features that no annotation mentions."""

    def describe(self) -> str:
        """One sentence that counts and names what does not match; "" when everything does."""
        parts = []
        if self.without_features:
            parts.append(f"{count_ids(self.without_features, 'annotated video')} without features")
        if self.without_captions:
            parts.append(f"{count_ids(self.without_captions, 'video')} with features but no annotations")
        return f"{len(self.records):,} videos matched; left out: {'; '.join(parts)}" if parts else ""


def count_ids(ids: Sequence[str], noun: str) -> str:
    """How many there are, and the first of them: "4 videos (a, b, c, ...)"."""
    named = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"{len(ids):,} {noun}{'' if len(ids) == 1 else 's'} ({named})"


def match_features(records: Sequence[VideoRecord], store_ids: Collection[str]) -> Matched:
    """Pairs annotations with the ids of a feature store; orders are kept.

    A video that the store has under another of its names takes that name. Raises ClipcapError when the annotations
    are of segments and the features of whole videos.
    """
    named = under_names(records, store_ids)
    available = frozenset(store_ids)
    annotated = {record.video_id for record in named}
    matched = [record for record in named if record.video_id in available]
    if not matched:
        _refuse_whole_videos(named, available)
    return Matched(
        records=matched,
        without_features=[record.video_id for record in named if record.video_id not in available],
        without_captions=[video_id for video_id in store_ids if video_id not in annotated],
    )


def annotated(caption: Sequence[Path], ids: Sequence[str], where: str, paragraphs: bool = False) -> list[VideoRecord]:
    """The records of the videos that are among `ids`; says what was left out.

    where: what has these ids, for the message. Raises ClipcapError when there are none.
    """
    matched = match_features(read_annotations(caption, paragraphs), ids)
    if not matched.records:
        raise ClipcapError(
            f"no video of {', '.join(map(str, caption))} has features or a file in {where}; check that ids agree, "
            f"e.g. {ids[0]!r} there"
        )
    if matched.describe():
        print(matched.describe(), file=sys.stderr)
    return matched.records


def training_and_validation(
    records: Sequence[VideoRecord], train_split: str, eval_split: str
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """The videos of two splits that have captions; of the second perhaps none.

    Raises ClipcapError where the first is no split, or none of its videos has captions.
    """
    training = with_captions(select(records, train_split))
    if not training:
        raise ClipcapError(f"split {train_split!r} has features but no captions; nothing to train on")
    validation = normal_split(eval_split)
    return training, with_captions([record for record in records if record.split == validation])


def with_captions(records: Sequence[VideoRecord]) -> list[VideoRecord]:
    """Those that have any."""
    return [record for record in records if record.captions]


def under_names(records: Sequence[VideoRecord], ids: Collection[str]) -> list[VideoRecord]:
    """The records, those that `ids` know by an alias alone under that."""
    known = frozenset(ids)
    return [
        replace(record, video_id=next((alias for alias in record.aliases if alias in known), record.video_id))
        if record.video_id not in known and record.span is None
        else record
        for record in records
    ]


def _refuse_whole_videos(records: Sequence[VideoRecord], available: frozenset[str]) -> None:
    for record in records:
        if record.span is not None and not available.isdisjoint((record.source, *record.aliases)):
            raise ClipcapError(
                f"the annotations are of segments, such as {record.video_id}, and the features of whole videos; "
                "extract the segments with extract_features.py --annotations FILE, or join the sentences with "
                "--paragraphs"
            )


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
    matched = AnnotatedVideos()
    missing: dict[str, None] = {}  # as an ordered set: a video has many segments
    for record in records:
        name = next((name for name in (record.source, *record.aliases) if name in files), None)
        if name is None:
            missing[record.source] = None
        elif record.span is None:
            matched.videos[name] = files[name]
        else:
            matched.videos[record.video_id] = files[name]
            matched.spans[record.video_id] = record.span
    if not matched.videos:
        raise ClipcapError(
            f"none of the {len(files):,} videos is in the annotations; check that their ids agree, e.g. "
            f"{next(iter(files))!r} there and {records[0].source!r} here"
        )
    matched.missing.extend(missing)
    return matched
