"""Videos that are no files here: at URLs, in WebDataset tars, in Parquet tables. Each is a path all the same.

    s3://bucket/clips/a.mp4           at a URL, which fsspec opens
    shard-000.tar/a.mp4               a member of a tar, here or at a URL
    table.parquet/17/a.mp4            the bytes in row 17 of a table

A table may also name files or URLs. Braces stand for several: shard-{000..099}.tar.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from clipcap_video.errors import ClipcapError, VideoError, first_line
from clipcap_video.files import remote_files, spelled, url_of

TAR, PARQUET = ".tar", ".parquet"
# Columns of a table, in the order in which they are looked for.
VIDEO_COLUMNS = ("path", "video_path", "video", "url", "file", "filename", "mp4", "bytes")
ID_COLUMNS = ("video_id", "id", "__key__", "key")
MOST_EXPANDED = 1_000_000  # paths that braces may stand for


def expand(source: Path) -> list[Path]:
    """The paths that one with braces stands for: numbers {000..099}, names {a,b}; others as they are."""
    text = str(source)
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None or source.exists():
        return [source]
    numbers = re.fullmatch(r"([0-9]{1,15})\.\.([0-9]{1,15})", found[1])
    names: Iterable[str] = found[1].split(",")
    count = found[1].count(",") + 1
    if numbers is not None:
        first, last = numbers.groups()
        names = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        count = max(0, int(last) - int(first) + 1)
    # Braces that are left multiply what these stand for, by two at least.
    if count > MOST_EXPANDED or text.count("{") > MOST_EXPANDED.bit_length():
        raise ClipcapError(
            f"{spelled(source)[:200]}: the braces stand for too many; at most {MOST_EXPANDED:,} are read"
        )
    if count < 2:
        raise ClipcapError(f"{spelled(source)}: the braces stand for nothing; write {{000..099}} or {{a,b}}")
    return [path for name in names for path in expand(Path(text[: found.start()] + name + text[found.end() :]))]


def is_container(source: Path) -> bool:
    """Whether a source is a file that holds videos or names them: a tar or a table."""
    return source.suffix.lower() in (TAR, PARQUET)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file here or at a URL, to read. Raises ClipcapError where that cannot be had."""
    url = url_of(path)
    if url is None:
        try:
            with path.open("rb") as stream:
                yield stream
        except OSError as error:
            raise ClipcapError(f"{path} cannot be read ({error.strerror}); check the path") from None
        return
    with remote_files(url) as (system, place), system.open(place, "rb") as stream:
        yield stream


def size_of(url: str) -> int:
    """The bytes of a file at a URL; 0 where that is unknown, as of one of /proc, which need not end."""
    with remote_files(url) as (system, place):
        return int(system.size(place) or 0)


def names_in(url: str) -> list[Path]:
    """The files in a folder at a URL and below it, or the one that is there. Raises ClipcapError for nothing."""
    with remote_files(url) as (system, place):
        found = [place] if system.isfile(place) else system.find(place)
    scheme = url.split("://")[0]
    if not found:
        raise ClipcapError(f"nothing at {url}; give a folder of videos, a video, a tar or a table")
    return [Path(f"{scheme}://{str(name).removeprefix('/')}") for name in sorted(found)]


def videos_in(container: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], dict[Path, str]]:
    """The videos in a tar or a table, and the ids of those that are not called after their file.

    Raises ClipcapError for one that is damaged, or has none.
    """
    names: dict[Path, str] = {}
    if container.suffix.lower() == TAR:
        paths = [container / name for name in _members(container) if Path(name).suffix.lower() in suffixes]
    else:
        paths, names = _rows(container)
    if not paths:
        raise ClipcapError(f"no video in {spelled(container)}; its members would end in .mp4 and the like")
    return paths, names


@lru_cache(maxsize=64)
def _members(tar: Path) -> dict[str, tuple[int, int]]:
    """Where each file of a tar begins, and its length."""
    with opened(tar) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                return {one.name: (one.offset_data, one.size) for one in archive if one.isfile()}
        except tarfile.TarError as error:
            raise ClipcapError(f"{spelled(tar)} is not a whole tar ({first_line(error)}); fetch it again") from None


@contextmanager
def _table(container: Path) -> Iterator[tuple[Any, str]]:
    """A Parquet file, and its column of videos."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ClipcapError("Parquet needs pyarrow; pip install 'clipcap-video[parquet]'") from None
    with opened(container) as stream:
        try:
            table = parquet.ParquetFile(stream)
            column = next((name for name in VIDEO_COLUMNS if name in table.schema_arrow.names), None)
            if column is None:
                raise ClipcapError(
                    f"{spelled(container)} has the columns {', '.join(table.schema_arrow.names)}; one called path, "
                    "with paths, or video, with bytes, is looked for"
                )
            yield table, column
        except ClipcapError:
            raise
        except Exception as error:  # whatever the reader throws at a damaged file
            raise ClipcapError(
                f"{spelled(container)} is not a whole table ({first_line(error)}); fetch it again"
            ) from None


def _rows(container: Path) -> tuple[list[Path], dict[Path, str]]:
    with _table(container) as (table, column):
        ids = next((name for name in ID_COLUMNS if name in table.schema_arrow.names), None)
        texts = str(table.schema_arrow.field(column).type) in ("string", "large_string")
        wanted = [name for name in (ids, column if texts else None) if name is not None]
        rows = table.read(wanted).to_pydict() if wanted else {}
        count = table.metadata.num_rows
        if texts and None in rows[column]:
            raise ClipcapError(f"{spelled(container)} names no video in row {rows[column].index(None)}; leave it out")
    named = [str(one) for one in rows[ids]] if ids else [f"{container.stem}-{row}" for row in range(count)]
    if not texts:
        return [container / str(row) / f"{name}.mp4" for row, name in enumerate(named)], {}
    paths = [Path(text) if url_of(text) else container.parent / text for text in rows[column]]
    return paths, dict(zip(paths, named, strict=True)) if ids else {}


@contextmanager
def at_hand(path: Path) -> Iterator[Path]:
    """A video as a file here, for the block. Raises VideoError, naming it by its own path, where it cannot be had."""
    inside = next((parent for parent in path.parents if is_container(parent)), None)
    if url_of(path) is None and (inside is None or path.exists()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="clipcap-video-") as folder:
        file = Path(folder) / path.name
        try:
            with file.open("wb") as copy:
                _copy(path, inside, copy)
        except Exception as error:  # whatever is thrown at it, there
            raise VideoError(f"{spelled(path)} cannot be fetched ({first_line(error)})") from None
        try:
            yield file
        except VideoError as error:
            raise VideoError(str(error).replace(str(file), spelled(path)), error.kind) from None


def _copy(path: Path, inside: Path | None, copy: IO[bytes]) -> None:
    if inside is None:
        with opened(path) as stream:
            shutil.copyfileobj(stream, copy, 2**20)
    elif inside.suffix.lower() == TAR:
        start, length = _members(inside)[str(path.relative_to(inside))]
        with opened(inside) as stream:
            stream.seek(start)
            while length > 0 and (part := stream.read(min(length, 2**20))):
                copy.write(part)
                length -= len(part)
    else:
        row = int(path.relative_to(inside).parts[0])
        with _table(inside) as (table, column):
            for group in range(table.metadata.num_row_groups):
                size = table.metadata.row_group(group).num_rows
                if row < size:
                    value = table.read_row_group(group, [column])[column][row].as_py()
                    value = value.get("bytes") if isinstance(value, dict) else value
                    if not isinstance(value, bytes):
                        raise ValueError(f"row {path.relative_to(inside).parts[0]} holds no bytes")
                    copy.write(value)
                    return
                row -= size
