"""The captions of one long video on disk, as they come: a run that was stopped at any moment can go on from there.

The first line says of what and how the captions were made; each further line is one Prediction with start and end, as
predictions.json has it; {"finished": true} ends a log that is complete.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from clipcap_video.errors import ClipcapError
from clipcap_video.predictions import Prediction, from_line, to_line

FINISHED = '{"finished": true}'


class CaptionLog:
    """Open for appending; `predictions` are those that it had when it was opened, `finished` if that was all.

    made_by: what decides the captions; an earlier log is gone on with only if it says the same.
    overwrite: begin anew, whatever is there.

    Raises ClipcapError when the file there is of another kind, or was made in another way.
    """

    def __init__(self, path: Path, made_by: dict[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        self.predictions: list[Prediction] = []
        self.finished = False
        self._offsets: list[int] = []
        header = json.dumps({"made_by": made_by}, ensure_ascii=False) + "\n"
        if path.exists() and path.stat().st_size and not overwrite:
            self._read(made_by)
            self._stream: BinaryIO = path.open("r+b")
            self._stream.truncate(self._end)  # a line that was being written when the run was killed
            self._stream.seek(self._end)
        else:
            self._stream = path.open("wb")
            self._write(header)

    def __enter__(self) -> CaptionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def append(self, prediction: Prediction) -> None:
        self._offsets.append(self._stream.tell())
        self._write(to_line(prediction) + "\n")
        self.predictions.append(prediction)

    def take_back(self) -> Prediction | None:
        """Removes the last prediction, which may turn out to go on."""
        if not self._offsets:
            return None
        self._stream.seek(self._offsets.pop())
        self._stream.truncate()
        return self.predictions.pop()

    def finish(self) -> None:
        self._write(FINISHED + "\n")
        self.finished = True

    def _write(self, text: str) -> None:
        self._stream.write(text.encode())
        self._stream.flush()

    def _read(self, made_by: dict[str, Any]) -> None:
        remedy = "give another --out_dir, or --overwrite to write it anew"
        with self.path.open("rb") as stream:
            try:
                before = json.loads(stream.readline())["made_by"]
                before.items()
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ClipcapError(f"{self.path} is there already and no file of this command; {remedy}") from None
            for name in sorted({*made_by, *before}):
                if before.get(name) != made_by.get(name):
                    raise ClipcapError(
                        f"{self.path} was begun with {name} {before.get(name)}, "
                        f"this run has {made_by.get(name)}; {remedy}"
                    )
            self._end = stream.tell()
            for number, line in enumerate(stream, 2):
                if not line.endswith(b"\n"):
                    break
                if line.strip() == FINISHED.encode():
                    self.finished = True
                else:
                    text = line.decode("utf-8", "replace")
                    self.predictions.append(from_line(text, f"{self.path} line {number}"))
                    self._offsets.append(self._end)
                self._end += len(line)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
