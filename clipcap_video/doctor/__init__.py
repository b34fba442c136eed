"""Looks at videos, annotations, features and a model before a run does, and says what is wrong with them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from clipcap_video.doctor.before import made_before
from clipcap_video.doctor.dataset import (
    as_annotated,
    compare_videos,
    equal_files_across_splits,
    named_features,
    read_all,
)
from clipcap_video.doctor.features import StoreFacts, compare_features, examine_features, examine_model
from clipcap_video.doctor.findings import Examination, Finding, describe
from clipcap_video.doctor.similar import find_similar
from clipcap_video.doctor.videos import Limits, examine_videos
from clipcap_video.files import natural_key, sorted_ids
from clipcap_video.video.files import id_of, search, shown, skipped_note

__all__ = ["Examination", "Finding", "Limits", "describe", "examine"]


def examine(
    videos: Sequence[Path] = (),
    caption: Sequence[Path] = (),
    data: Path | None = None,
    model_dir: Path | None = None,
    *,
    similarity: float | None = None,
    limits: Limits | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Examination:
    """Everything that is wrong with what is given, each by itself and one against the other.

    videos: as `find_videos` takes them. caption: annotation files. data: a feature store. model_dir: a checkpoint, or
    the folder of a run. similarity: also group videos whose features have this cosine at least.
    Raises ClipcapError for a place where there is nothing to look at; writes nothing.
    """
    started = time.perf_counter()
    result = Examination()
    listings = [search(source) for source in videos]
    paths = [path for listing in listings for path in listing.paths]
    if skipped := [path for listing in listings for path in listing.skipped]:
        result.notes.append(skipped_note(skipped))
    paths.sort(key=lambda path: natural_key(id_of(path)))
    facts = None if data is None else examine_features(data)
    records, problems, complete = read_all(caption)
    result.findings += problems
    ids: list[str] | None = None
    if paths:
        result.findings += _same_ids(paths)
        ids = sorted_ids({id_of(path) for path in paths})
        findings, checked, before = examine_videos(paths, limits or Limits(), workers, progress)
        result.findings += findings
        result.checked |= checked
        result.findings += equal_files_across_splits(records, [one for one in findings if one.kind == "duplicate"])
        if data is not None and data.is_dir():
            named = named_features([id_of(path) for path in paths], records)
            of_path = {id_of(path): path for path in paths}
            old, notes = made_before(data, {name: (of_path[of], before[of_path[of]]) for name, of in named.items()})
            result.findings += old
            result.notes += notes
        ids = as_annotated(records, ids)
    if caption:
        result.checked |= {"annotated videos": len(records), "captions": sum(len(one.captions) for one in records)}
    if caption and not complete:
        result.notes.append("an annotation file could not be used, so captions were not compared with the rest")
    elif caption and ids is not None:
        result.findings += compare_videos(records, ids)
    if facts is not None and data is not None:
        _add_features(result, facts, data, ids, [record.video_id for record in records] if complete else [])
    if similarity is not None and data is not None and facts is not None and len(facts.ids) > 1:
        result.findings += find_similar(data, similarity)
    if model_dir is not None:
        result.checked["models"] = 1
        problems, notes = examine_model(model_dir, facts, data)
        result.findings += problems
        result.notes += notes
    result.seconds = time.perf_counter() - started
    return result.finish()


def _add_features(
    result: Examination, facts: StoreFacts, data: Path, ids: Sequence[str] | None, annotated: Sequence[str]
) -> None:
    result.checked["feature files"] = len(facts.ids)
    result.findings += facts.findings
    if not facts.ids:  # the whole store is damaged, which was said
        return
    if ids is not None:
        result.findings += compare_features(facts, ids, data, "among the videos")
    elif annotated:
        result.findings += compare_features(facts, annotated, data, "in the annotations")


def _same_ids(paths: Sequence[Path]) -> list[Finding]:
    """Files of one id, which no run could tell apart; a file that is named twice is one file."""
    files: dict[str, list[Path]] = {}
    for path in paths:
        others = files.setdefault(id_of(path), [])
        if not any(path == other or path.samefile(other) for other in others):
            others.append(path)
    return [
        Finding("same_id", name, f"{' and '.join(map(shown, same))} have the same id", tuple(map(shown, same)))
        for name, same in files.items()
        if len(same) > 1
    ]
