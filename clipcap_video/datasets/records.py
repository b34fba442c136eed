"""What every annotation file becomes: videos with a split and captions; and how files are read and merged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError


class SplitOverlap(ClipcapError):
    """One file puts videos into several splits. videos: id -> the first two of its splits."""

    def __init__(self, message: str, videos: dict[str, tuple[str, str]]) -> None:
        super().__init__(message)
        self.videos = videos


@dataclass(frozen=True)
class VideoRecord:
    """One video of a dataset. captions: in file order, white space folded, empty ones dropped."""

    video_id: str
    split: str
    captions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        folded = (" ".join(caption.split()) for caption in self.captions)
        object.__setattr__(self, "captions", [caption for caption in folded if caption])


def read_annotations(paths: Sequence[Path | str]) -> list[VideoRecord]:
    """The videos of all files, in order of first appearance; a video in several files keeps all its captions.

    Raises ClipcapError when a file is missing or malformed, or when two files put one video into different
    splits.
    """
    merged: dict[str, VideoRecord] = {}
    origin: dict[str, Path] = {}
    for path in map(Path, paths):
        for record in _read(path):
            known = merged.get(record.video_id)
            if known is None:
                merged[record.video_id] = record
                origin[record.video_id] = path
            elif known.split != record.split:
                raise ClipcapError(
                    f"video {record.video_id!r} is in split {known.split!r} in {origin[record.video_id]} and "
                    f"in split {record.split!r} in {path}; leave one of the files out, or make them agree"
                )
            else:
                merged[record.video_id] = replace(known, captions=known.captions + record.captions)
    return list(merged.values())


@dataclass(frozen=True)
class Source:
    """One annotation file in memory. json: its parsed content, None when it is not one JSON document."""

    path: Path
    text: str
    json: Any | None


def _read(path: Path) -> list[VideoRecord]:
    from clipcap_video.datasets import READERS

    source = _open(path)
    reader = next((reader for reader in READERS if reader.matches(source)), None)
    if reader is None:
        raise ClipcapError(
            f"{path} is no annotation file of a known kind: its top level is {_kind(source.json)}; "
            "expected MSR-VTT JSON (an object with the fields videos and sentences), or CSV or JSONL with the fields "
            "video and caption"
        )
    records = reader.read(source)
    if not records:
        raise ClipcapError(f"{path} lists no videos; give an annotation file with at least one")
    return records


def _open(path: Path) -> Source:
    if path.is_dir():
        raise ClipcapError(f"{path} is a folder; give the annotation file itself")
    try:
        # utf-8-sig drops the byte order mark that spreadsheets write.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ClipcapError(f"no annotation file {path}; check the path") from None
    except UnicodeDecodeError as error:
        raise ClipcapError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ClipcapError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    if not text.strip():
        raise ClipcapError(f"{path} is empty; give an annotation file with at least one video")
    if path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson"):
        return Source(path, text, None)
    try:
        return Source(path, text, json.loads(text))
    except json.JSONDecodeError as error:
        # Several JSON documents in one file are JSONL, whatever the file's name; a table without braces is
        # CSV.
        jsonl = error.msg == "Extra data" and text.lstrip().startswith("{")
        if path.suffix.lower() == ".json" and not jsonl:
            raise ClipcapError(
                f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); check that "
                "the download is complete"
            ) from None
        return Source(path, text, None)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "plain text"}
    if isinstance(value, dict):
        return f"an object with the fields {', '.join(sorted(map(str, value))[:5]) or '(none)'}"
    return names.get(type(value), "a number")


def normal_split(name: str) -> str:
    """The published name of a split: "val", "valid", "dev" and "validation" are MSR-VTT's "validate"."""
    name = name.strip().lower()
    return "validate" if name in ("val", "valid", "validation", "dev") else name


def splits(records: Iterable[VideoRecord]) -> dict[str, int]:
    """How many videos each split has, in order of first appearance."""
    return dict(Counter(record.split for record in records))


def select(records: Sequence[VideoRecord], split: str) -> list[VideoRecord]:
    """The videos of one split. Raises ClipcapError, listing the splits there are, when it has none."""
    wanted = normal_split(split)
    chosen = [record for record in records if record.split == wanted]
    if not chosen:
        have = ", ".join(f"{name} ({count:,})" for name, count in splits(records).items())
        raise ClipcapError(f"no split {split!r} in the annotations; there is {have or 'none'}")
    return chosen


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
            parts.append(f"{_count(self.without_features, 'annotated video')} without features")
        if self.without_captions:
            parts.append(f"{_count(self.without_captions, 'video')} with features but no annotations")
        return f"{len(self.records):,} videos matched; left out: {'; '.join(parts)}" if parts else ""


def _count(ids: Sequence[str], noun: str) -> str:
    named = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"{len(ids):,} {noun}{'' if len(ids) == 1 else 's'} ({named})"


def match_features(records: Sequence[VideoRecord], store_ids: Collection[str]) -> Matched:
    """Pairs annotations with the ids of a feature store; orders are kept."""
    available = frozenset(store_ids)
    annotated = {record.video_id for record in records}
    return Matched(
        records=[record for record in records if record.video_id in available],
        without_features=[record.video_id for record in records if record.video_id not in available],
        without_captions=[video_id for video_id in store_ids if video_id not in annotated],
    )
