"""What a run over many videos did, and what it found wrong: failures.jsonl and warnings.jsonl, a line a video."""

from __future__ import annotations

import json
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from clipcap_video.errors import VideoError
from clipcap_video.features.encode import EncodedVideo
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import spelled, write_text, writing


@dataclass(frozen=True)
class Failure:
    """A video that could not be read; one line of failures.jsonl."""

    video: str
    path: str
    reason: str


@dataclass(frozen=True)
class Warned:
    """A video that was read though it is damaged; one line of warnings.jsonl."""

    video: str
    path: str
    warning: str
    damage: dict[str, int | bool]

    def __str__(self) -> str:
        return self.warning


@dataclass
class ExtractionSummary:
    """What a run did.

    done, skipped, failed: numbers of videos (skipped ones had their features already). frames: frames encoded
    into written files. seconds: wall time. failures: in the order of the videos. warnings: of videos that were read
    though they are damaged, by id. fingerprint: that of all files.
    """

    fingerprint: Fingerprint
    done: int = 0
    skipped: int = 0
    failed: int = 0
    frames: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    warnings: dict[str, Warned] = field(default_factory=dict)

    def count(self, video_id: str, path: Path, video: EncodedVideo | VideoError) -> Failure | Warned | None:
        """Takes in what became of a video. Returns the line that is to be kept of it, if one."""
        if isinstance(video, VideoError):
            self.failed += 1
            self.failures.append(Failure(video_id, spelled(path), str(video)))
            return self.failures[-1]
        self.done += 1
        self.frames += len(video.features)
        if video.warning is None:
            return None
        self.warnings[video_id] = Warned(video_id, spelled(path), video.warning, video.damage.to_json())
        return self.warnings[video_id]


class Log:
    """A file of JSON lines, which comes into being with its first one. append: to a file that is there."""

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
        with writing(self._file):
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
        write_text(file, "".join(lines))
    else:
        file.unlink()
