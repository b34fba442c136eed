"""failures.jsonl and warnings.jsonl: what a run over many videos found wrong with them, a line each."""

from __future__ import annotations

import json
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from clipcap_video.files import whole_file


class Log:
    """A file of JSON lines, which comes into being with its first one. append: go on with a file that is there."""

    def __init__(self, file: Path, append: bool = False) -> None:
        self._file = file
        self._append = append
        self._stream: TextIO | None = None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, entry: Any) -> None:
        """Writes a dataclass as a line."""
        if self._stream is None:
            self._stream = self._file.open("a" if self._append else "w", encoding="utf-8")
        self._stream.write(json.dumps(asdict(entry)) + "\n")
        self._stream.flush()


def keep_warnings(file: Path, made_anew: Container[str]) -> None:
    """Takes the lines of videos that are made anew out of a warnings.jsonl; without others, the file."""
    if not file.is_file():
        return
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["video"] not in made_anew:
                lines.append(line + "\n")
    if lines:
        with whole_file(file) as partial:
            partial.write_text("".join(lines), encoding="utf-8")
    else:
        file.unlink()
