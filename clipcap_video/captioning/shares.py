"""Runs that share the videos between them: each leaves what it made beside --out, and who ends last writes the whole.

`<stem>.shards/` has three files a share: its log of captions, by which it also resumes, and the lists of what could not
be read and of what is damaged. They stay, so that a share that is done again replaces its part of the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipcap_video.captioning.log import read_log
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.errors import parsing
from clipcap_video.features.logs import Failure, Warned
from clipcap_video.files import write_text
from clipcap_video.runs.engine import Shard


@dataclass(frozen=True)
class Outcome:
    """What became of videos, each list in their order."""

    predictions: Sequence[Prediction]
    failures: Sequence[Failure]
    warnings: Sequence[Warned]


def share_log(place: Path, shard: Shard) -> Path:
    """Where the captions of a share go of a run whose captions go to `place`."""
    return place.with_name(f"{place.stem}.shards") / f"{shard.number}-of-{shard.count}.captions.jsonl"


def keep_share(log: Path, made: Outcome, todo: Mapping[str, Path]) -> None:
    """Leaves beside its log of captions what else a share made of the videos `todo`."""
    failures, warnings = _lists(log)
    before = [one for one in _read(warnings, Warned) if one.video not in todo]
    for file, entries in ((failures, made.failures), (warnings, [*before, *made.warnings])):
        # Whole, for the run of another share may be reading it.
        write_text(file, "".join(json.dumps(asdict(one)) + "\n" for one in entries))


def join_shares(place: Path, count: int, decided: Mapping[str, str], videos: Mapping[str, Path]) -> Outcome | list[int]:
    """What all `count` shares made of `videos`; the numbers of the shares that are missing, if any are.

    decided: what decides the captions. A share that was decided otherwise, or lacks a video of its own, is missing.
    """
    parts = {number: _share(place, Shard(number, count), decided, videos) for number in range(1, count + 1)}
    missing = [number for number, part in parts.items() if part is None]
    if missing:
        return missing
    found = [part for part in parts.values() if part is not None]
    return Outcome(
        _in_order((one for part in found for one in part.predictions), videos),
        _in_order((one for part in found for one in part.failures), videos),
        _in_order((one for part in found for one in part.warnings), videos),
    )


def _share(place: Path, shard: Shard, decided: Mapping[str, str], videos: Mapping[str, Path]) -> Outcome | None:
    log, wanted = share_log(place, shard), shard.of(videos)
    if not log.exists():
        return None
    made_by, captioned = read_log(log)
    if made_by != decided:
        return None
    failures, warnings = _lists(log)
    predictions = {one.video: one for one in captioned if one.path == str(wanted.get(one.video))}
    failed = [one for one in _read(failures, Failure) if one.video in wanted and one.video not in predictions]
    if wanted.keys() - predictions - {one.video for one in failed}:
        return None
    return Outcome(list(predictions.values()), failed, [one for one in _read(warnings, Warned) if one.video in wanted])


def _lists(log: Path) -> list[Path]:
    return [log.with_name(log.name.replace(".captions.", f".{name}.")) for name in ("failures", "warnings")]


def _read(file: Path, kind: type[Any]) -> Iterator[Any]:
    if not file.exists():
        return
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        with parsing(f"{file} line {number}", "delete it and do its share again"):
            yield kind(**json.loads(line))


def _in_order(entries: Iterable[Any], videos: Mapping[str, Path]) -> list[Any]:
    by_name = {one.video: one for one in entries}
    return [by_name[name] for name in videos if name in by_name]
