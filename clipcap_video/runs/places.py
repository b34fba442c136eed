"""Which files a run reads and writes: one rule for every command of what may be read, and what may be replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError
from clipcap_video.files import files_below, is_leftover, kind_of
from clipcap_video.runs.options import BESIDE, FILE, FOLDER, SHARED, called, option_fields
from clipcap_video.runs.record import RUN_FILE, file_digest, inputs_of, read_record, record_file

RULE = (
    "An output never replaces an input of the same run, a folder or a device. A file that is there already is replaced "
    "where it is the result of the same command for the same inputs and checkpoint, as the run.yaml beside it says; "
    "any other only with --overwrite."
)


def check_places(config: Any, command: str, overwrite: bool, config_file: Path | None = None) -> None:
    """Raises ClipcapError where an input is no file or folder, or an output breaks the rule. Writes nothing.

    config: the options of the command, whose `outputs` tells what it writes. config_file: where options were read from.
    """
    inputs = dict(_named_inputs(config, config_file))
    for path, name in inputs.items():
        kind = kind_of(path)
        if kind not in ("file", "folder", "nothing"):
            raise ClipcapError(f"{name} {path} is a {kind}, not a file; save what it gives to a file, and give that")
    outputs = [] if getattr(config, "dry_run", False) else config.outputs()
    records = {place: read_record(place) for _, path, kind in outputs if kind != SHARED
               for place in (record_file(path, kind), record_file(outputs[0][1], outputs[0][2]))}  # fmt: skip
    seen: dict[Path, str] = {}
    for name, path, kind in outputs:
        _check_place(name, path, kind)
        known = seen.setdefault(path.resolve(), name)
        if known != name:
            raise ClipcapError(f"{known} and {name} are the same file {path}; give each a name of its own")
        for read, option in inputs.items() if kind != SHARED and path.is_file() else ():
            if _is_under_another_name(path, read) if read.is_dir() else read.exists() and path.samefile(read):
                raise ClipcapError(
                    f"{name} {path} is read by this run ({option}), so it is not written to; give another"
                )
        if kind == SHARED or not path.exists() or (path.is_dir() and all(map(is_leftover, path.iterdir()))):
            continue
        mine = [place for place, found in records.items() if found is not None and found.get("command") == command]
        if any(_is_result(path, records[place] or {}, place, config) for place in mine):
            continue
        if kind == BESIDE and any(
            (read_record(place) or {}).get("made", {}).get(path.name) == file_digest(path)
            for place in path.parent.glob(f"*{RUN_FILE}")
        ):
            continue
        inside = [
            option for read, option in inputs.items()
            if option != name and read.is_dir() and read.resolve() in path.resolve().parents
        ]  # fmt: skip
        if overwrite and not (inside and record_file(path, kind) not in mine):
            continue
        remedy = f"give another {name}" + ("" if overwrite else ", or --overwrite to replace it")
        raise ClipcapError(f"{path} is there already, and not as the result of {command} for these inputs; {remedy}")
    for place, found in records.items():
        if place.exists() and found is None and not (overwrite and place not in inputs):
            raise ClipcapError(f"the record of this run would replace {place}, which is none; give another --out")


def _is_under_another_name(path: Path, folder: Path) -> bool:
    """Whether a file is also one in a folder, by a link."""
    if path.stat().st_nlink == 1 and not path.is_symlink():
        return False
    here = path.parent.resolve() / path.name
    return any(
        file.exists() and path.samefile(file) and file.parent.resolve() / file.name != here
        for file in files_below(folder)
    )


def refuse_outputs_among(paths: Iterable[Path], config: Any) -> None:
    """Raises ClipcapError where an output is one of the files that a folder, a list or a record among the inputs
    named."""
    outputs = [(name, path) for name, path, kind in config.outputs() if kind != SHARED and path.is_file()]
    for name, path in outputs:
        for read in paths:
            if read.exists() and path.samefile(read):
                raise ClipcapError(f"{name} {path} is read by this run, so it is not written to; give another")


def _named_inputs(config: Any, config_file: Path | None) -> Iterator[tuple[Path, str]]:
    """Files and folders among the options that are not outputs, each with its option."""
    if config_file is not None:
        yield config_file, "--config"
    for item in option_fields(config):
        value = getattr(config, item.name)
        for one in value if isinstance(value, list) else [value]:
            named = isinstance(one, Path) or (isinstance(one, str) and one and kind_of(Path(one)) != "nothing")
            if named and not item.metadata.get("made") and not item.metadata.get("live"):
                yield Path(one), f"--{called(item.name)}"


def _check_place(name: str, path: Path, kind: str) -> None:
    """Raises ClipcapError where nothing can be written: a device, a folder for a file, a place that is read-only."""
    there = kind_of(path)
    if there not in ("nothing", "file", "folder"):
        raise ClipcapError(f"{name} {path} is a {there}; give the name of a file")
    if kind in (FILE, BESIDE) and there == "folder":
        raise ClipcapError(f"cannot write {path}, for it is a folder; give {name} the name of a file")
    if (kind, there) == (FOLDER, "file"):
        raise ClipcapError(f"{name} {path} is a file; give the name of a folder")
    if kind != SHARED:
        check_writable(name, path)


def check_writable(name: str, path: Path) -> None:
    """Raises ClipcapError where nothing can be written at `path`, which need not exist. name: its option."""
    if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise ClipcapError(f"cannot write into {path}, which is read-only; give {name} a place that you may write to")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "is read-only" if above.is_dir() else "is not a folder"
        raise ClipcapError(f"cannot write {path}, for {above} {reason}; give {name} a place that you may write to")


def _is_result(path: Path, record: dict[str, Any], place: Path, config: Any) -> bool:
    """Whether what is at `path` is what the run of `record`, a file at `place`, wrote for the inputs of this one."""
    data = record.get("inputs") or {}
    now = inputs_of(config)
    if {name: sorted(found.values()) for name, found in data.items()} != {
        name: sorted(found.values()) for name, found in now.items()
    }:
        return False
    if path.is_dir():
        return place.parent.resolve() == path.resolve()
    made = record.get("made")
    return made is None or made.get(os.path.relpath(path, place.parent)) == file_digest(path)
