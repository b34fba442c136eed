"""What an extraction has left to do, told without loading an encoder, or torch.

A finished run leaves `.request.json` in its folder: what was asked for, and the fingerprint that came of it. Who asks
for the same again is answered from that and from the headers of the files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.shards import SUFFIX as PARQUET
from clipcap_video.features.shards import ParquetStore
from clipcap_video.features.store import SUFFIX, check_features, read_header
from clipcap_video.files import sorted_ids, whole_file, write_text
from clipcap_video.runs.engine import Shard
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


def missing_videos(
    videos: dict[str, Path], out: Path, wanted: Fingerprint, overwrite: bool, parquet: bool = False
) -> dict[str, Path]:
    """The videos without features in `out`. Raises ClipcapError when it holds features of another kind.

    parquet: whether its layout is, or is to be, that of shards.
    """
    names = os.listdir(out) if out.is_dir() else []
    other = SUFFIX if parquet else PARQUET
    if any(name.endswith(other) for name in names):
        given = "safetensors" if parquet else "parquet"
        raise ClipcapError(
            f"{out} holds features as {other} files; extract with --format {given}, or into another folder"
        )
    if parquet:
        return _missing_in_shards(videos, out, wanted, overwrite)
    done = set()
    for video_id in sorted_ids(name[: -len(SUFFIX)] for name in names if name.endswith(SUFFIX)):
        if overwrite and video_id in videos:
            continue
        file = out / f"{video_id}{SUFFIX}"
        try:
            fingerprint, _ = read_header(file)
            if video_id in videos:
                check_features(file)
        except ClipcapError:  # damaged: made again if it is wanted
            continue
        if not fingerprint.matches(wanted):
            remedy = "extract into another folder"
            if video_id in videos:
                remedy += ", or overwrite them"
            raise ClipcapError(f"{file} holds features made by {fingerprint}, this run makes {wanted}; {remedy}")
        done.add(video_id)
    return {video_id: path for video_id, path in videos.items() if video_id not in done}


def _missing_in_shards(videos: dict[str, Path], out: Path, wanted: Fingerprint, overwrite: bool) -> dict[str, Path]:
    store = ParquetStore(out)
    if store.files and (store.fingerprint is None or not store.fingerprint.matches(wanted)):
        raise ClipcapError(
            f"{out} holds features made by {store.fingerprint or 'another program'}, this run makes {wanted}; "
            "extract into another folder"
        )
    return videos if overwrite else {video_id: path for video_id, path in videos.items() if video_id not in store}


def clear_leftovers(out: Path, shard: Shard | None = None) -> None:
    """Removes what earlier runs into `out` left over: the list of their failures, and files half written.

    shard: of the run; others may be at work in the same folder, and only the list of its own failures goes.
    """
    if shard is not None:
        (out / shard.part_of(FAILURES_FILE)).unlink(missing_ok=True)
        return
    join_parts(out, WARNINGS_FILE, "*")
    names = os.listdir(out)
    leftover = [name for name in names if name.startswith(".") and name.endswith(".partial")]
    parts = [name for name in names if fnmatch(name, "failures.*-of-*.jsonl") or fnmatch(name, "warnings.*-of-*.jsonl")]
    for name in (FAILURES_FILE, *parts, *leftover):
        with suppress(OSError):  # in a folder that is read-only by now
            (out / name).unlink(missing_ok=True)


def join_parts(out: Path, name: str, count: int | str, anew: Container[str] = ()) -> None:
    """Brings the parts that `count` shards wrote of a log in `out` into the whole one, as one run would leave it.

    anew: videos whose earlier lines in it no longer hold.
    """
    stem, _, suffix = name.partition(".")
    while True:
        lines = {video_id: line for video_id, line in _lines(out / name) if video_id not in anew}
        for part in out.glob(f"{stem}.*-of-{count}.{suffix}"):
            lines.update(_lines(part))
        before = dict(_lines(out / name))
        if lines == before:
            return
        if lines:
            write_text(out / name, "".join(lines[video_id] for video_id in sorted_ids(lines)))
        else:
            (out / name).unlink(missing_ok=True)
        # Again: another shard may have ended in the meantime, and who writes last has seen all parts.


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    with suppress(FileNotFoundError):
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            with suppress(ValueError, KeyError, TypeError):  # one that is being written
                yield json.loads(line)["video"], line
