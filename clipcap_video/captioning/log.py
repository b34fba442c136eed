"""The captions of one long video on disk, as they come: a run that was stopped at any moment resumes from there.

The first line says of what and how the captions were made, and which subtitle files were written from them. Each line
that follows is one Prediction with start and end, as predictions.json has it; {"finished": true} ends a complete log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from clipcap_video.captioning.predictions import Prediction, PredictionFile, from_line, to_line
from clipcap_video.errors import ClipcapError
from clipcap_video.files import about_to_appear, reading, write_text, writing

LOG_SUFFIX = ".captions.jsonl"
FINISHED = '{"finished": true}'


class CaptionLog:
    """Open for appending; `predictions` are those that it has so far, `finished` if that is all.

    made_by: what decides the captions; an earlier log is continued only if it says the same.
    overwrite: begin anew, unless what is there is an unfinished log that can be continued.
    writes: names of the subtitle files that were written from it.

    Raises ClipcapError when the file there is of another kind, or was made in another way.
    """

    def __init__(self, path: Path, made_by: dict[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        self.predictions: list[Prediction] = []
        self.finished = False
        self.writes: set[str] = set()
        self._offsets: list[int] = []
        self._made_by = made_by
        if path.exists() and path.stat().st_size and self._can_continue(made_by, overwrite):
            self._stream: BinaryIO = path.open("r+b")
            self._stream.truncate(self._end)  # a line that was being written when the run was killed
            self._stream.seek(self._end)
        else:
            self.predictions, self._offsets, self.finished, self.writes = [], [], False, set()
            about_to_appear(path, path)
            self._stream = path.open("wb")
            self._write(self._header())

    def __enter__(self) -> CaptionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def append(self, prediction: Prediction) -> Prediction:
        """Returns the prediction as a run that resumes would read it."""
        self._offsets.append(self._stream.tell())
        line = to_line(prediction)
        self._write(line + "\n")
        self.predictions.append(prediction)
        return from_line(line, str(self.path))

    def take_back(self) -> Prediction | None:
        """Removes the last prediction, which may turn out to last longer."""
        if not self._offsets:
            return None
        self._stream.seek(self._offsets.pop())
        self._stream.truncate()
        return self.predictions.pop()

    def claim(self, names: Iterable[str]) -> None:
        """Notes the subtitle files that are written from here, so that later runs may replace them."""
        if self.writes.issuperset(names):
            return
        self.writes.update(names)
        header, captions = self._header().encode(), self.path.read_bytes()
        before = captions.index(b"\n") + 1
        self._stream.close()
        write_text(self.path, (header + captions[before:]).decode())
        self._offsets = [offset + len(header) - before for offset in self._offsets]
        self._stream = self.path.open("r+b")
        self._stream.seek(0, os.SEEK_END)

    def _header(self) -> str:
        return json.dumps({"made_by": self._made_by, "writes": sorted(self.writes)}, ensure_ascii=False) + "\n"

    def finish(self) -> None:
        self._write(FINISHED + "\n")
        self.finished = True

    def _write(self, text: str) -> None:
        with writing(self.path):
            self._stream.write(text.encode())
            self._stream.flush()

    def _can_continue(self, made_by: dict[str, Any], overwrite: bool) -> bool:
        try:
            self._read(made_by)
        except ClipcapError:
            if not overwrite:
                raise
            return False
        return not (overwrite and self.finished)

    def _read(self, made_by: dict[str, Any]) -> None:
        remedy = "give another --out, or --overwrite to write it anew"
        content = _read(self.path, remedy)
        self.writes = content.writes
        for name in sorted({*made_by, *content.made_by}):
            before, now = str(content.made_by.get(name)), str(made_by.get(name))
            if before != now:
                before, now = _where_they_differ(before, now)
                raise ClipcapError(f"{self.path} was begun with {name} {before}, this run has {now}; {remedy}")
        self.predictions, self._offsets, self.finished = content.predictions, content.offsets, content.finished
        self._end = content.end


def _where_they_differ(first: str, second: str) -> tuple[str, str]:
    """Of two lists `a 1, b 2` what is in one alone; the whole of both where that is nothing for one of them."""
    parts = [text.split(", ") for text in (first, second)]
    alone = [[part for part in parts[i] if part not in parts[1 - i]] for i in (0, 1)]
    return (", ".join(alone[0]), ", ".join(alone[1])) if all(alone) else (first, second)


@dataclass
class _Content:
    """What a log holds. offsets, end: bytes from its beginning to each prediction, and to the end of its last line."""

    made_by: dict[str, Any]
    writes: set[str]
    predictions: list[Prediction] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    finished: bool = False
    end: int = 0


def _read(path: Path, remedy: str) -> _Content:
    with reading(path, "the captions", remedy), path.open("rb") as stream:
        try:
            header = json.loads(stream.readline())
            content = _Content(dict(header["made_by"]), set(header["writes"]))
        except Exception:
            raise ClipcapError(f"{path} is there already and no file of clipcap-video caption; {remedy}") from None
        content.end = stream.tell()
        for number, line in enumerate(stream, 2):
            if not line.endswith(b"\n"):
                break
            text = line.decode("utf-8", "replace").strip()
            if text == FINISHED:
                content.finished = True
            else:
                content.predictions.append(from_line(text, f"{path} line {number}"))
                content.offsets.append(content.end)
            content.end += len(line)
    return content


def load_log(path: Path) -> PredictionFile:
    """The captions in a log, finished or not, as a file of predictions. Raises ClipcapError when it is no log."""
    made_by, predictions = read_log(path)
    return PredictionFile(str(made_by.get("model", "")), None, {}, predictions)


def read_log(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """What decided the captions in a log, finished or not, and these. Raises ClipcapError when it is no log."""
    content = _read(path, "give a STEM.captions.jsonl of clipcap-video caption")
    return content.made_by, content.predictions
