"""What an extraction has left to do, told without loading an encoder, or torch.

A finished run leaves `.request.json` in its folder: what was asked for, and the fingerprint that came of it. Who asks
for the same again is answered from that and from the headers of the files.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.store import SUFFIX, read_header
from clipcap_video.files import sorted_ids, whole_file
from clipcap_video.version import __version__
from clipcap_video.video.sampling import SamplingSpec

FAILURES_FILE = "failures.jsonl"
WARNINGS_FILE = "warnings.jsonl"
REQUEST_FILE = ".request.json"


@dataclass(frozen=True)
class Request:
    """What fixes the fingerprint of a run. weights: a file of weights for the encoder, if one was given."""

    encoder: str
    weights: Path | None
    sampling: SamplingSpec
    normalized: bool

    def _state(self) -> dict[str, object] | None:
        """As JSON, with the state of the files that it names; None for models that may change where they come from."""
        named = [Path(self.encoder.removeprefix("hf:")), *([self.weights] if self.weights is not None else [])]
        if self.encoder.startswith("hf:") and not named[0].is_dir():
            return None
        files = sorted(file for path in named for file in (path.iterdir() if path.is_dir() else [path]))
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return {
            "program": __version__,
            "encoder": self.encoder,
            "sampling": asdict(self.sampling),
            "normalized": self.normalized,
            "files": [list(entry) for entry in stats],
        }

    def remember(self, out: Path, fingerprint: Fingerprint) -> None:
        """Notes in `out` which fingerprint this request has."""
        if (state := self._state()) is not None:
            noted = {"request": state, "fingerprint": fingerprint.to_json()}
            with whole_file(out / REQUEST_FILE) as partial:
                partial.write_text(json.dumps(noted), encoding="utf-8")

    def recall(self, out: Path) -> Fingerprint | None:
        """The fingerprint that a run into `out` with the same request had."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads((out / REQUEST_FILE).read_text(encoding="utf-8"))
            if noted["request"] == self._state():
                return Fingerprint.from_json(noted["fingerprint"])
        return None


def missing_videos(videos: dict[str, Path], out: Path, wanted: Fingerprint, overwrite: bool) -> dict[str, Path]:
    """The videos without features in `out`. Raises ClipcapError when it holds features of another kind."""
    names = os.listdir(out) if out.is_dir() else []
    done = set()
    for video_id in sorted_ids(name[: -len(SUFFIX)] for name in names if name.endswith(SUFFIX)):
        if overwrite and video_id in videos:
            continue
        file = out / f"{video_id}{SUFFIX}"
        try:
            fingerprint, _ = read_header(file)
        except ClipcapError:  # damaged: made again if it is wanted
            continue
        if not fingerprint.matches(wanted):
            remedy = "extract into another folder"
            if video_id in videos:
                remedy += ", or overwrite them"
            raise ClipcapError(f"{file} holds features made by {fingerprint}, this run makes {wanted}; {remedy}")
        done.add(video_id)
    return {video_id: path for video_id, path in videos.items() if video_id not in done}


def clear_leftovers(out: Path) -> None:
    """Removes what earlier runs into `out` left over: the list of their failures, and files half written."""
    leftover = [name for name in os.listdir(out) if name.startswith(".") and name.endswith(".partial")]
    for name in (FAILURES_FILE, *leftover):
        with suppress(OSError):  # in a folder that is read-only by now
            (out / name).unlink(missing_ok=True)
