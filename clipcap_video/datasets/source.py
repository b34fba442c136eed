"""Annotation files as they are read from disk, before a reader knows what they are."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError
from clipcap_video.files import LARGEST_TEXT, check_size, decode_text, parse_json, reading

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "validate", "valid": "validate", "validate": "validate", "validation": "validate", "dev": "validate",
    "test": "test", "testing": "test", "blindtest": "test", "publictect": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One annotation file in memory.

    text: "" for a pickle. content: what a pickle or JSON document holds; None for other text.
    """

    path: Path
    text: str
    content: Any | None

    def lines(self) -> list[str]:
        """The lines of a text that are neither blank nor comments (#), without the blanks at their ends."""
        if self.content is not None:
            return []
        # Not splitlines(): captions may hold U+2028 and the like.
        lines = (line.strip() for line in self.text.split("\n"))
        return [line for line in lines if line and not line.startswith("#")]

    def split_of_name(self) -> str | None:
        """The split that the file's name tells (train_list.txt, val_1.json, LSMDC16_annos_training.csv), if one."""
        name = self.path.name.removesuffix(self.path.suffix)
        # Flickr_8k.trainImages.txt has a word within another.
        words = re.findall("[a-z]+", name.lower()) + re.findall("[A-Z]?[a-z]+", name)
        told = {SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS}
        return told.pop() if len(told) == 1 else None

    def require_split(self) -> str:
        """The split that the file's name tells. Raises ClipcapError when it tells none, or several."""
        split = self.split_of_name()
        if split is None:
            raise ClipcapError(
                f"the name of {self.path} does not tell its split; give it its published name, or one with train, "
                "val or test in it"
            )
        return split

    def columns(self) -> list[str]:
        """The names in the first line of a table, in lower case; one name at least, for any text."""
        line = next((line for line in self.text.split("\n") if line.strip()), "")
        return [cell.strip().strip('"').lower() for cell in line.split(_delimiter(line))]

    def rows(self, *needed: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a table parted by commas, tabs or semicolons: place in the file, and cells by column.

        Raises ClipcapError where the first line lacks a column of `needed` or a row has more cells than it.
        """
        delimiter = _delimiter(self.text.lstrip("\r\n").split("\n")[0])
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next([cell.strip().lower() for cell in row] for row in reader if row)
            twice = next((name for name in needed if header.count(name) > 1), None)
            if twice is not None:
                raise ClipcapError(f"{self.path}, line {reader.line_num} names the column {twice} twice; leave one")
            if not set(needed) <= set(header):
                raise ClipcapError(
                    f"{self.path}, line {reader.line_num}: the header is {','.join(header)[:80]!r}; "
                    f"the first line must name the columns {' and '.join(needed)}"
                )
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                where = f"line {reader.line_num}"
                if len(row) > len(header):
                    raise ClipcapError(
                        f"{self.path}, {where} has {len(row)} columns and the header {len(header)}; "
                        "put a caption that holds commas in double quotes"
                    )
                yield where, dict(zip(header, row, strict=False))
        except csv.Error as error:
            raise ClipcapError(f"{self.path}, line {reader.line_num} is not CSV ({error}); check its quotes") from None


def _delimiter(header: str) -> str:
    return max(",\t;", key=header.count)


def open_source(path: Path) -> Source:
    """Reads a file. Raises ClipcapError when it is missing, empty or broken."""
    if path.is_dir():
        raise ClipcapError(f"{path} is a folder; give the annotation file itself")
    if path.suffix.lower() == ".parquet" and path.is_file():
        return Source(path, "", None)  # too large to be read whole
    if not path.exists():
        raise ClipcapError(f"no annotation file {path}; check the path")
    data = path.read_bytes() if check_size(path) else b""
    if not data.strip():
        raise ClipcapError(f"{path} is empty; give an annotation file with at least one video")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        return Source(path, "", _load_pickle(path, data))
    try:
        text = decode_text(data)
    except UnicodeDecodeError as error:
        raise ClipcapError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not text.strip():
        raise ClipcapError(f"{path} is empty; give an annotation file with at least one video")
    if suffix in (".csv", ".tsv", ".jsonl", ".ndjson"):
        return Source(path, text, None)
    try:
        return Source(path, text, parse_json(text))
    except json.JSONDecodeError as error:
        # Several JSON documents in one file are JSONL, whatever the file's name; a table without braces is
        # CSV.
        jsonl = error.msg == "Extra data" and text.lstrip().startswith("{")
        if suffix == ".json" and not jsonl:
            raise ClipcapError(
                f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); check that "
                "the download is complete"
            ) from None
        return Source(path, text, None)


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not blank, blanks folded; of one that gzip packed, too.

    Raises ClipcapError when it cannot be read, or is too large to be read whole.
    """
    remedy = "give a text file with one caption a line"
    with reading(path, "the captions", remedy):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            data = stream.read(LARGEST_TEXT + 1) if path.stat().st_size else b""
        if len(data) > LARGEST_TEXT:
            raise ClipcapError(f"{path} holds more than {LARGEST_TEXT / 1e9:.1f} GB of text; split it")
        lines = [" ".join(line.split()) for line in decode_text(data).split("\n")]
    if not any(lines):
        raise ClipcapError(f"{path} is empty; {remedy}")
    return [line for line in lines if line]


# Pickle writes lists, dictionaries, texts and numbers without naming a class; these it names. Calling them runs
# no code of the file's choice.
_CONTAINERS: dict[str, Any] = {
    "builtins.set": set, "builtins.frozenset": frozenset, "builtins.list": list, "builtins.dict": dict,
    "collections.OrderedDict": OrderedDict, "collections.defaultdict": defaultdict,
}  # fmt: skip


class _Refused(Exception):
    pass


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, texts and numbers; a pickle that names anything else is refused, for that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full not in _CONTAINERS:
            raise _Refused(f"it asks for {module}.{name}")
        return _CONTAINERS[full]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it asks for an object outside the file")


def _load_pickle(path: Path, data: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except _Refused as error:
        raise ClipcapError(
            f"{path} is not a pickle of plain lists, dictionaries and texts ({error}); nothing else is read from a "
            "pickle, for it could run code"
        ) from None
    # A broken pickle can fail in almost any way.
    except Exception as error:
        raise ClipcapError(f"{path} is not a whole pickle ({error}); check that the download is complete") from None
