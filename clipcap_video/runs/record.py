"""`run.yaml`: everything that a run was made from, beside what it made; and option files to start a run from.

Options stand at the top level under their own names, so that `--config run.yaml` repeats the run. What is not an
option (versions, fingerprints, when and where) stands under `record`, which `--config` passes over.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError
from clipcap_video.files import files_below, is_leftover, kind_of, read_text, reading, telling, write_text
from clipcap_video.runs.options import (
    BESIDE,
    CALLED,
    FILE,
    FOLDER,
    SHARED,
    called,
    idle_options,
    option_fields,
    option_hints,
    options_of,
    plain_value,
)
from clipcap_video.version import __version__

RUN_FILE = "run.yaml"
RECORD = "record"
# Files with more bytes than this are told apart by name and length.
MOST_DIGESTED = 2**24
# Options that earlier versions had and wrote down: command, name. They are passed over.
FORMER = {
    *((command, "text_cache") for command in ("train", "train-retrieval", "evaluate-retrieval")),
    ("demo", "beam_size"),
}
# What may change a result, and how bits come out.
PACKAGES = (
    "torch", "torchvision", "transformers", "accelerate", "numpy", "safetensors", "opencv-python-headless", "av",
)  # fmt: skip


def write_run(
    file: Path,
    command: str,
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    **machine: Any,
) -> None:
    """Writes `file`, whole or not at all.

    options: from `options_of`. data: fingerprints of what the run reads. inputs: from `inputs_of`. machine: what `auto`
    became, and the like.
    Where the file holds an earlier run of the same command, as it does when one is resumed, that one's time, command
    line and version are kept in a list.
    """
    record = {
        "command": command,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command_line": _command_line(),
        "versions": versions(),
        "git": git_revision(),
        "machine": {"platform": platform.platform(), **plain_value(machine)},
        "data": plain_value(data),
    }
    if inputs is not None:
        record["inputs"] = plain_value(inputs)
    before = read_record(file)
    if before is not None and before.get("command") == command:
        kept = {name: before[name] for name in ("started", "command_line", "versions", "git") if name in before}
        record["earlier"] = [*before.get("earlier", []), kept]
    text = (
        "# What the files beside this one were made from. To do it again, with another place for the output:\n"
        f"# clipcap-video {command} --config {shlex.quote(file.name)}\n"
        f"# What stands under `{RECORD}` is no option, and passed over.\n"
    )
    write_text(
        file, text + yaml_text({called(name): value for name, value in options.items()}) + yaml_text({RECORD: record})
    )


def yaml_text(values: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def record_run(file: Path, command: str, config: Any) -> None:
    """Writes the record of a command without a fuller one of its own to `file`.

    config: its dataclass of options, whose inputs are told by digests.
    """
    found = inputs_of(config)
    write_run(file, command, options_of(config), {name: item for name, item in found.items() if item}, found)


@contextmanager
def whole_or_gone(command: str, config: Any) -> Iterator[None]:
    """A block that runs a command. Where it fails, outputs that it began and that no record tells of are removed:
    nobody would know them for ours, and a rerun would refuse to replace them."""
    outputs = [(path, kind) for _, path, kind in config.outputs() if kind != SHARED]
    before = {path: _state(path) for path, _ in outputs}
    try:
        yield
    except SystemExit:  # a run to its end, in which a video failed or something was found
        raise
    except BaseException:
        for path, kind in outputs:
            places = {record_file(path, kind), record_file(*outputs[0])}
            if _state(path) == before[path] or any(_tells_of(place, path, command) for place in places):
                continue
            if path.is_file():
                path.unlink()
            elif before[path] is None:
                shutil.rmtree(path, ignore_errors=True)
        raise


@contextmanager
def recorded(command: str, config: Any) -> Iterator[None]:
    """A block that runs a command. The record is there before its first output is: a run that is killed in between
    would not know its own result again."""
    outputs = [(path, kind) for _, path, kind in config.outputs() if kind != SHARED]
    if not outputs:
        yield
        return
    folder, file = outputs[0][0], record_file(*outputs[0])
    begun, new = False, not file.exists()

    def note(place: Path, partial: Path) -> None:
        nonlocal begun
        if not begun and any(path == place or path in place.parents for path, _ in outputs):
            begun = True
            record_run(partial / RUN_FILE if place == folder and partial.is_dir() else file, command, config)

    try:
        with telling(note):
            yield
    except BaseException:
        if begun and new and not any(_state(path, but=RUN_FILE) for path, _ in outputs):
            file.unlink(missing_ok=True)  # of nothing
        raise


def _state(path: Path, but: str = "") -> tuple[int, ...] | None:
    """What changes when a file is written; (0,) of a folder with something in it, None of nothing and an empty folder.

    but: a name in a folder that is nothing.
    """
    if path.is_dir():
        return (0,) if any(one.name != but and not is_leftover(one) for one in path.iterdir()) else None
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _tells_of(place: Path, made: Path, command: str) -> bool:
    """Whether the record at `place` is of this command, and of what is now at `made`."""
    record = read_record(place)
    if record is None or record.get("command") != command:
        return False
    digests_of = record.get("made")
    if digests_of is None or made.is_dir():
        return True
    return bool(digests_of.get(os.path.relpath(made, place.parent)) == file_digest(made))


def record_file(made: Path, kind: str = FILE) -> Path:
    """Where the record of what was made lies."""
    return made / RUN_FILE if kind == FOLDER or made.is_dir() else made.with_name(f"{made.stem}.{RUN_FILE}")


def inputs_of(config: Any) -> dict[str, dict[str, str]]:
    """What a command reads, by option: digests of files and folders that are there by now, and what chooses in them."""
    found: dict[str, dict[str, str]] = {}
    written = {path.resolve() for _, path, _ in config.outputs()}
    for item in option_fields(config):
        value = getattr(config, item.name)
        paths = [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path)]
        if not item.metadata.get("made"):
            aside = (RUN_FILE, *item.metadata.get("aside", ()))
            digested = {str(path.resolve()): _digest(path, written, aside) for path in paths if path.exists()}
            found |= {item.name: digested} if digested else {}
        if item.metadata.get("chooses") and value is not None:
            found[item.name] = {item.name: str(value)}
    return found


def note_outputs(command: str, config: Any) -> None:
    """Adds digests of what the run wrote to its record, by which a file of somebody else in its place is told."""
    outputs = [(path, kind) for _, path, kind in config.outputs()]
    written = outputs and outputs[0][1] in (FILE, BESIDE) and not getattr(config, "dry_run", False)
    place = record_file(*outputs[0]) if written else None
    record = None if place is None else read_record(place)
    if place is None or record is None or record.get("command") != command or "made" in record:
        return
    made = {os.path.relpath(path, place.parent): file_digest(path) for path, _ in outputs if path.is_file()}
    # The record is the last part of the file.
    text = yaml_text({"made": made}).replace("\n", "\n  ").rstrip(" ")
    write_text(place, place.read_text(encoding="utf-8") + "  " + text)


def _digest(path: Path, written: Collection[Path], aside: tuple[str, ...] = (RUN_FILE,)) -> str:
    """Of a folder with a model its weights, of another one or a large file names and lengths, of others the content.

    written: by the run into the folder, and so left out, as is what ends like one of `aside`.
    """
    for folder in (path, path / "best", path / "last"):
        if (folder / "model.safetensors").is_file():
            return file_digest(folder / "model.safetensors")
    if path.is_dir():
        features = sorted(file for ending in ("*.safetensors", "*.npy") for file in path.glob(ending))
        # A feature file's header says how it was made, and all in a folder are made alike.
        how = file_digest(features[0]) if features else ""
        files = features or [file for file in files_below(path) if file.is_file() and not file.name.endswith(aside)]
        kept = {str(file.relative_to(path)): file for file in files if file.resolve() not in written}
        return videos_digest(kept) + how
    return videos_digest({path.name: path}) if path.stat().st_size > MOST_DIGESTED else file_digest(path)


def _command_line() -> str:
    program = Path(sys.argv[0]).name
    return shlex.join(["clipcap-video" if program == "__main__.py" else program, *sys.argv[1:]])


def read_record(file: Path) -> dict[str, Any] | None:
    """The record in a run.yaml; None where there is none, or it is not one of ours any more."""
    import yaml

    try:
        content = yaml.safe_load(read_text(file, "the record", "give another place"))
    except Exception:
        return None
    record = content.get(RECORD) if isinstance(content, dict) else None
    return record if isinstance(record, dict) else None


def read_options(file: Path, config_class: type[Any], several: Collection[str], command: str) -> dict[str, Any]:
    """The options in a YAML file for a command whose options `config_class` has, of which `several` take lists.

    Options that are null are as if not given, and so are those that had no effect in the run that wrote the file.
    Raises ClipcapError when the file is missing or malformed, was written by another command, or has a key that is no
    option; the sentence names the option that was perhaps meant.
    """
    import yaml

    remedy = "write one `option: value` a line"
    text = read_text(file, "the options", remedy)
    with reading(file, "the options", remedy):
        content = yaml.safe_load(text)
        if isinstance(content, dict) and len(yaml.compose(text, yaml.SafeLoader).value) > len(content):
            raise ValueError("an option is there twice")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ClipcapError(f"{file} holds no options; write one `option: value` a line")
    record = content.pop(RECORD, None)
    written_by = record.get("command") if isinstance(record, dict) else None
    if written_by not in (None, command):
        raise ClipcapError(
            f"{file} was written by clipcap-video {written_by}, not {command}; give that command the file"
        )
    options, names = {}, {called(item.name): item.name for item in option_fields(config_class)}
    for key, value in content.items():
        if (command, key) in FORMER:
            continue
        name = names.get(CALLED.get(str(key), key))
        if name is None:
            close = difflib.get_close_matches(str(key), names, n=1)
            meant = f"did you mean {close[0]!r}?" if close else f"see clipcap-video {command} --help"
            raise ClipcapError(f"{file}: there is no option {key!r}; {meant}")
        if value is None:
            continue
        if name in several:
            value = value if isinstance(value, list) else [value]
        if isinstance(value, bool) and "bool" not in str(option_hints(config_class)[name]):
            raise ClipcapError(f"{file}: the option {key} takes a value, not {str(value).lower()}")
        if isinstance(value, dict) or (isinstance(value, list) and name not in several):
            raise ClipcapError(f"{file}: the option {key} takes one value, not {value!r}")
        options[name] = value
    idle = idle_options(config_class, options) if record is not None else {}
    return {name: value for name, value in options.items() if name not in idle}


def versions() -> dict[str, str]:
    """Of the package, Python and the libraries that decide how numbers come out."""
    versions_of = {"clipcap_video": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions_of[name] = metadata.version(name)
    return versions_of


def git_revision() -> dict[str, Any] | None:
    """The revision of the program's own repository, and whether files differ from it; None where it is in none."""
    folder = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout.strip()

    try:
        # Installed in a virtual environment within some other repository, it is not that one's.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"revision": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def file_digest(file: Path) -> str:
    """SHA-256 of a file, 16 digits of it; what is no file, or has no size, need not end and is as one of no bytes."""
    digest = hashlib.sha256()
    if kind_of(file) == "file" and file.stat().st_size:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"


def digests(files: Iterable[Path]) -> dict[str, str]:
    return {str(file.resolve()): file_digest(file) for file in files}


def videos_digest(videos: Mapping[str, Path]) -> str:
    """Tells one set of video files from another, by their ids and lengths."""
    listed = "\n".join(
        f"{video_id} {path.stat().st_size if path.exists() else 0}" for video_id, path in sorted(videos.items())
    )
    return f"sha256:{hashlib.sha256(os.fsencode(listed)).hexdigest()[:16]}"


def store_facts(fingerprint: Any, path: Path, ids: Sequence[str]) -> dict[str, Any]:
    """A feature store, for a record: where it is, how it was made and which videos of it were used."""
    used = hashlib.sha256(os.fsencode("\n".join(sorted(ids)))).hexdigest()[:16]
    # A folder of files that do not say how they were made is known by its videos alone.
    how = file_digest(path) if fingerprint is None and path.is_file() else None
    return {
        "path": str(path.resolve()),
        "fingerprint": how if fingerprint is None else asdict(fingerprint),
        "videos": len(ids),
        "ids": f"sha256:{used}",
    }
