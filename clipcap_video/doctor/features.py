"""Whether stored features are whole, of one kind, those of the videos, and those that a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from clipcap_video.captioning.ranking import load_ranker
from clipcap_video.doctor.findings import Finding
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import VideoFeatures
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.hdf5 import HDF5_SUFFIXES
from clipcap_video.features.layouts import open_features
from clipcap_video.features.shards import SUFFIX as PARQUET
from clipcap_video.features.shards import ParquetStore
from clipcap_video.features.store import SUFFIX, read_features, read_header
from clipcap_video.files import sorted_ids
from clipcap_video.models.checkpoint import check_loads, find_checkpoint, read_config


@dataclass
class StoreFacts:
    """fingerprint: of most files, None where there is none; widths: of the whole ones; ids: all that are there."""

    ids: list[str]
    fingerprint: Fingerprint | None = None
    widths: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def examine_features(path: Path) -> StoreFacts:
    """Reads every feature file. Raises ClipcapError when there is no feature store at `path`."""
    if path.is_dir() and any(path.glob(f"*{SUFFIX}")):
        return _examine_folder(path)
    try:
        store = open_features(path)
    except ClipcapError as error:
        shards = path.is_dir() and any(path.glob(f"*{PARQUET}"))
        if not shards and (not path.is_file() or path.suffix not in HDF5_SUFFIXES):
            raise
        return StoreFacts([], findings=[Finding("bad_features", path.name, str(error), (str(path),))])
    facts = StoreFacts(store.ids(), store.fingerprint)
    if isinstance(store, ParquetStore):
        facts.findings += [Finding("failed_features", name, reason) for name, reason in store.errors.items()]
    for video_id in facts.ids:
        _examine_values(partial(store.load, video_id), video_id, path, facts)
    return facts


def _examine_folder(path: Path) -> StoreFacts:
    """Our own layout, file by file: the store would refuse one whose files are of several kinds."""
    facts = StoreFacts(sorted_ids(file.name[: -len(SUFFIX)] for file in path.glob(f"*{SUFFIX}")))
    kinds: list[tuple[Fingerprint, list[str]]] = []
    for video_id in facts.ids:
        file = path / f"{video_id}{SUFFIX}"
        try:
            fingerprint, _ = read_header(file)
        except ClipcapError as error:
            facts.findings.append(Finding("bad_features", video_id, str(error), (str(file),)))
            continue
        same = next((members for known, members in kinds if known.matches(fingerprint)), None)
        if same is None:
            kinds.append((fingerprint, [video_id]))
        else:
            same.append(video_id)
    if not kinds:
        return facts
    facts.fingerprint, usual = max(kinds, key=lambda kind: len(kind[1]))
    for fingerprint, members in kinds:
        if members is not usual:
            said = f"made by {fingerprint}; most files by {facts.fingerprint}"
            facts.findings += [
                Finding("mixed_features", video_id, said, (str(path / f"{video_id}{SUFFIX}"),)) for video_id in members
            ]
    for video_id in usual:
        file = path / f"{video_id}{SUFFIX}"
        _examine_values(partial(read_features, file), video_id, file, facts)
    return facts


def _examine_values(load: Callable[[], VideoFeatures], video_id: str, file: Path, facts: StoreFacts) -> None:
    try:
        features = load().features
    except (ClipcapError, OSError) as error:  # h5py reports damaged blocks as an OSError
        facts.findings.append(Finding("bad_features", video_id, f"{file}: {error}", (str(file),)))
        return
    facts.widths.add(features.shape[1])
    if not features.any():
        facts.findings.append(Finding("bad_features", video_id, f"{file}: all of its values are 0", (str(file),)))


def compare_features(facts: StoreFacts, wanted: Collection[str], path: Path, wanted_by: str) -> list[Finding]:
    """Videos without features, and features of no video. wanted_by: where the ids `wanted` are from, in words."""
    there, needed = set(facts.ids), set(wanted)
    failed = {finding.subject for finding in facts.findings if finding.kind == "failed_features"}
    findings = [
        Finding("missing_features", video_id, f"{wanted_by}, but not in {path}")
        for video_id in wanted
        if video_id not in there and video_id not in failed
    ]
    return findings + [
        Finding("stray_features", video_id, f"in {path}, but not {wanted_by}")
        for video_id in facts.ids
        if video_id not in needed
    ]


def examine_model(model_dir: Path, facts: StoreFacts | None, data: Path | None) -> tuple[list[Finding], list[str]]:
    """Whether a checkpoint is whole and the features are those that it was trained on; findings and notes.

    Nothing is fetched for that: of a frozen language model under a name only the checkpoint itself is read.
    """
    try:
        checkpoint = find_checkpoint(model_dir)
        if checkpoint.is_file():
            return [], [f"{checkpoint} is of the ClipCap programs and does not say what features it was trained on"]
        config, info = read_config(checkpoint)
        check_loads(checkpoint)
        load_ranker(checkpoint, config.feature_dim, torch.device("cpu"))
    except ClipcapError as error:
        return [Finding("bad_model", model_dir.name, str(error), (str(model_dir),))], []
    if facts is None:
        return [], []
    findings, width = [], config.feature_dim
    if (
        info.fingerprint is not None
        and facts.fingerprint is not None
        and not info.fingerprint.matches(facts.fingerprint)
    ):
        given, trained = asdict(facts.fingerprint), asdict(info.fingerprint)
        parts = ", ".join(name for name in given if given[name] != trained[name])
        said = (
            f"another {parts}: {data} was made by {facts.fingerprint}, {checkpoint} was trained on {info.fingerprint}"
        )
        findings.append(Finding("other_features", str(data), said, (str(data), str(checkpoint))))
    elif facts.widths - {width}:
        wide = ", ".join(map(str, sorted(facts.widths)))
        said = f"features in {data} are {wide} wide, {checkpoint} reads {width}"
        findings.append(Finding("wrong_width", str(data), said, (str(data), str(checkpoint))))
    known = info.fingerprint is not None and facts.fingerprint is not None
    notes = [] if known else [f"{data} or {checkpoint} does not say how its features were made: only widths compared"]
    return findings, notes
