"""Whether annotations can be read, whether their splits are apart, and whether every video has its captions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import SplitOverlap, VideoRecord
from clipcap_video.doctor.findings import Finding
from clipcap_video.errors import ClipcapError
from clipcap_video.files import sorted_ids


def read_all(files: Sequence[Path]) -> tuple[list[VideoRecord], list[Finding], bool]:
    """Records of all files that can be read, findings about the files, and whether all could be read.

    A video that is in two splits is a finding and stays with the first.
    """
    records: dict[str, VideoRecord] = {}
    origin: dict[str, Path] = {}
    findings: list[Finding] = []
    complete = True
    for file in files:
        try:
            read = read_annotations([file])
        except SplitOverlap as error:
            findings += [
                Finding("split_overlap", video_id, f"{file}: in splits {' and '.join(both)}", (str(file),))
                for video_id, both in error.videos.items()
            ]
            complete = False
            continue
        except ClipcapError as error:
            findings.append(Finding("annotations", file.name, str(error), (str(file),)))
            complete = False
            continue
        for record in read:
            known = records.setdefault(record.video_id, record)
            where = origin.setdefault(record.video_id, file)
            if known.split != record.split:
                said = f"in split {known.split} in {where} and in split {record.split} in {file}"
                findings.append(Finding("split_overlap", record.video_id, said, (str(where), str(file))))
            elif known is not record:
                captions = known.captions + record.captions
                records[record.video_id] = replace(record, captions=captions)
    return list(records.values()), findings, complete


def named_features(video_ids: Collection[str], records: Iterable[VideoRecord]) -> dict[str, str]:
    """The ids under which features of videos are kept -> the video: its own, and those of its annotated segments."""
    named = {video_id: video_id for video_id in video_ids}
    for record in records:
        source = next((name for name in (record.source, *record.aliases) if name in named), None)
        if record.span is not None and source is not None:
            named[record.video_id] = source
    return named


def as_annotated(records: Sequence[VideoRecord], video_ids: Collection[str]) -> list[str]:
    """The ids of videos, in the place of one whose segments are annotated those of the segments."""
    parts = {name: of for name, of in named_features(video_ids, records).items() if name != of}
    return sorted_ids(parts.keys() | (set(video_ids) - set(parts.values())))


def compare_videos(records: Iterable[VideoRecord], video_ids: Collection[str]) -> list[Finding]:
    """Annotated videos that are not there, and videos without captions."""
    annotated = {record.video_id: record for record in records}
    there = set(video_ids)
    findings = [
        Finding("missing_video", record.video_id, f"in split {record.split}, {len(record.captions)} captions, no file")
        for record in annotated.values()
        if record.video_id not in there
    ]
    for video_id in video_ids:
        if video_id not in annotated:
            findings.append(Finding("uncaptioned", video_id, "no annotation file names it"))
        elif not annotated[video_id].captions and annotated[video_id].split != "test":
            # The test files of a challenge come without captions.
            said = f"in split {annotated[video_id].split} without a caption"
            findings.append(Finding("uncaptioned", video_id, said))
    return findings


def equal_files_across_splits(records: Iterable[VideoRecord], duplicates: Iterable[Finding]) -> list[Finding]:
    """Videos of different splits whose files are the same."""
    split_of = {record.video_id: record.split for record in records}
    findings = []
    for duplicate in duplicates:
        files = {Path(file).stem: file for file in duplicate.files}
        splits = {video_id: split_of[video_id] for video_id in files if video_id in split_of}
        if len(set(splits.values())) > 1:
            said = ", ".join(f"{video_id} ({split})" for video_id, split in splits.items())
            said = f"the same file in several splits: {said}"
            findings.append(Finding("split_overlap", next(iter(splits)), said, duplicate.files))
    return findings
