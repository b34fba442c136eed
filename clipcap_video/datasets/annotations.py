"""Annotation files -> records: which reader reads a file, and how several files make one set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from clipcap_video.datasets.records import Listing, VideoRecord
from clipcap_video.datasets.source import Source, open_source
from clipcap_video.errors import ClipcapError
from clipcap_video.files import reading


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
            records = join_segments(content) if paragraphs else content
            if files:
                records = [replace(record, origin=len(files)) for record in records]
            files.append(_File(path, records))
    if listings:
        return _listed(_merge(listings), files)
    merged = _merge(files)
    unknown = next((record for record in merged if not record.split), None)
    if unknown is not None and need_splits:
        raise ClipcapError(
            f"{', '.join(map(str, paths))} does not say which split video {unknown.video_id!r} is in; also give the "
            "files that list the splits, such as train_list.txt, val_list.txt and test_list.txt"
        )
    return merged


class _File(NamedTuple):
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
    records_of: dict[str, list[VideoRecord]] = {}
    for record in annotated:
        name = next((names[name] for name in (record.source, *record.aliases) if name in names), record.source)
        records_of.setdefault(name, []).append(record)
    records = []
    for listed in listing:
        if listed.captions or listed.video_id not in records_of:
            records.append(listed)
            continue
        for record in records_of[listed.video_id]:
            aliases = (*listed.aliases, *record.aliases)
            if record.whole is None:
                records.append(replace(listed, captions=record.captions, aliases=aliases, origin=record.origin))
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
    try:
        with reading(path, "the annotations", "check that the download is complete"):
            return _read_source(open_source(path))
    except ClipcapError as error:  # of a record, which knows nothing of files
        if str(path) in str(error):
            raise
        raise ClipcapError(f"{path}: {error}") from None


def _read_source(source: Source) -> list[VideoRecord] | Listing:
    from clipcap_video.datasets.registry import READERS

    path = source.path
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
