"""What every annotation file becomes: videos with a split and captions; and how several files make one set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clipcap_video.datasets.source import SPLIT_WORDS, open_source
from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import Span


class SplitOverlap(ClipcapError):
    """One file puts videos into several splits. videos: id -> the first two of its splits."""

    def __init__(self, message: str, videos: dict[str, tuple[str, str]]) -> None:
        super().__init__(message)
        self.videos = videos


@dataclass(frozen=True)
class VideoRecord:
    """One video of a dataset, or one segment of a video.

    captions: in file order, white space folded, empty ones dropped.
    split: "" while no file says it; `read_annotations` gives such only where splits do not count.
    whole, span: of a segment, the id of the video and the part of it; see `segment`.
    aliases: other ids under which files and features of the video are found.
    """

    video_id: str
    split: str
    captions: list[str] = field(default_factory=list)
    whole: str | None = None
    span: Span | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        folded = (" ".join(caption.split()) for caption in self.captions)
        object.__setattr__(self, "captions", [caption for caption in folded if caption])

    @classmethod
    def segment(
        cls, whole: str, split: str, captions: list[str], span: Span, aliases: tuple[str, ...] = ()
    ) -> VideoRecord:
        """The part `span` of the video `whole`; its id, VIDEO@START-END in seconds, also names its features."""
        return cls(f"{whole}@{span.start:.2f}-{span.end:.2f}", split, captions, whole, span, aliases)

    @property
    def source(self) -> str:
        """The id of the video that the frames come from."""
        return self.whole or self.video_id


@dataclass(frozen=True)
class Listing:
    """What a file says that lists the videos of a split. Captions that it has itself replace those of other files."""

    records: list[VideoRecord]


def read_annotations(
    paths: Sequence[Path | str], paragraphs: bool = False, need_splits: bool = True
) -> list[VideoRecord]:
    """The videos of all files, in order of first appearance; a video in several files keeps all its captions.

    Where files that list splits are among them, those decide alone: which video is in which split, and that a
    video in none of them is left out.
    paragraphs: a video whose segments have sentences becomes one record, its sentences joined in file order.
    need_splits: whether every video must have a split.

    Raises ClipcapError when a file is missing or malformed, when two files put one video into different splits, or
    when none says which split a video is in and that is needed.
    """
    files: list[_File] = []
    listings: list[_File] = []
    for path in map(Path, paths):
        content = _read(path)
        if isinstance(content, Listing):
            listings.append(_File(path, content.records))
        else:
            files.append(_File(path, join_segments(content) if paragraphs else content))
    if listings:
        return _listed(_merge(listings), files)
    records = _merge(files)
    unknown = next((record for record in records if not record.split), None)
    if unknown is not None and need_splits:
        raise ClipcapError(
            f"{', '.join(map(str, paths))} does not say which split video {unknown.video_id!r} is in; also give the "
            "files that list the splits, such as train_list.txt, val_list.txt and test_list.txt"
        )
    return records


@dataclass(frozen=True)
class _File:
    path: Path
    records: list[VideoRecord]


def _merge(files: Sequence[_File]) -> list[VideoRecord]:
    """One record for each id, with the captions of all files."""
    merged: dict[str, VideoRecord] = {}
    origin: dict[str, Path] = {}
    for file in files:
        for record in file.records:
            known = merged.get(record.video_id)
            if known is None:
                merged[record.video_id] = record
                origin[record.video_id] = file.path
            elif known.split != record.split:
                raise ClipcapError(
                    f"video {record.video_id!r} is in split {known.split!r} in {origin[record.video_id]} and "
                    f"in split {record.split!r} in {file.path}; leave one of the files out, or make them agree"
                )
            else:
                merged[record.video_id] = replace(
                    known,
                    captions=known.captions + record.captions,
                    aliases=tuple(dict.fromkeys(known.aliases + record.aliases)),
                )
    return list(merged.values())


def _listed(listing: Sequence[VideoRecord], files: Sequence[_File]) -> list[VideoRecord]:
    """The listed videos, or their segments, with the captions of `files`."""
    names = {alias: record.video_id for record in listing for alias in (*record.aliases, record.video_id)}
    # What the files say of splits does not count here.
    annotated = _merge([_File(file.path, [replace(record, split="") for record in file.records]) for file in files])
    found: dict[str, list[VideoRecord]] = {}
    for record in annotated:
        name = next((names[name] for name in (record.source, *record.aliases) if name in names), record.source)
        found.setdefault(name, []).append(record)
    records = []
    for listed in listing:
        if listed.captions or listed.video_id not in found:
            records.append(listed)
            continue
        for record in found[listed.video_id]:
            aliases = (*listed.aliases, *record.aliases)
            if record.whole is None:
                records.append(replace(listed, captions=record.captions, aliases=aliases))
            else:
                records.append(replace(record, split=listed.split, aliases=aliases))
    return records


def join_segments(records: Sequence[VideoRecord]) -> list[VideoRecord]:
    """Each video whole, the sentences of its segments joined by blanks into one caption; other records as they are."""
    sentences: dict[str, list[str]] = {}
    for record in records:
        if record.whole is not None:
            sentences.setdefault(record.whole, []).extend(record.captions)
    joined: dict[str, VideoRecord] = {}
    for record in records:
        if record.whole is None:
            joined.setdefault(record.video_id, record)
        elif record.whole not in joined:
            caption = " ".join(sentences[record.whole])
            joined[record.whole] = VideoRecord(record.whole, record.split, [caption], aliases=record.aliases)
    return list(joined.values())


def _read(path: Path) -> list[VideoRecord] | Listing:
    from clipcap_video.datasets import READERS

    source = open_source(path)
    reader = next((reader for reader in READERS if reader.matches(source)), None)
    if reader is None:
        raise ClipcapError(
            f"{path} is no annotation file of a known kind: its top level is {_kind(source.content)}; "
            "expected MSR-VTT JSON (an object with the fields videos and sentences), CSV or JSONL with the fields "
            "video and caption, or another dataset's file as docs/datasets.md describes them"
        )
    content = reader.read(source)
    if not (content.records if isinstance(content, Listing) else content):
        raise ClipcapError(f"{path} lists no videos; give an annotation file with at least one")
    return content


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "plain text"}
    if isinstance(value, dict):
        return f"an object with the fields {', '.join(sorted(map(str, value))[:5]) or '(none)'}"
    return names.get(type(value), "a number")


def normal_split(name: str) -> str:
    """The published name of a split: "val", "valid", "dev" and "validation" are MSR-VTT's "validate"."""
    name = name.strip().lower()
    return SPLIT_WORDS.get(name, name)


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
                "extract the segments with extract_features.py --caption FILE, or join the sentences with --paragraphs"
            )
