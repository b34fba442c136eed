"""`clipcap-video watch`."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap_video import console
from clipcap_video.captioning.config import BeamOptions, CaptionerOptions, chosen_settings
from clipcap_video.cli.caption import load_captioner
from clipcap_video.cli.command import Command
from clipcap_video.errors import ClipcapError
from clipcap_video.runs.options import SHARED, Options, option

if TYPE_CHECKING:
    from clipcap_video.captioning.watching import Counts, Sighting


@dataclass
class WatchConfig(BeamOptions, CaptionerOptions, Options):
    """Options of `clipcap-video watch`."""

    source: str | None = option(
        None,
        "rtsp://... or another URL, a camera (/dev/video0), a file that grows, or - for standard input.",
        argument=True,
        live=True,
    )
    out: Path | None = option(
        None, "Also append the captions to this file, a line of JSON each.", panel="Output", made=SHARED
    )
    webhook: str | None = option(None, "Also POST each caption to this address, as JSON.", panel="Output")
    min_support: float = option(
        0.0,
        "Leave out captions of less support than this; needs a consensus network.",
        panel="Output",
        least=0,
        most=1,
    )
    repeats: bool = option(False, "Also say a caption that is the same as the one before.", panel="Output")
    min_shot: float = option(
        1.0, "Shots shorter than this many seconds are joined with what follows.", panel="Segments"
    )
    max_shot: float = option(
        6.0,
        "Longer shots are cut here, so a caption comes at most so many seconds and MIN_SHOT late.",
        panel="Segments",
    )
    patience: float = option(
        10.0,
        "Seconds without data after which a stream is taken for lost, and opened again, and a file for ended.",
        panel="Input",
        above=0,
        most=3600,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        from clipcap_video.video.segments import Segmentation

        if not self.source:
            raise ClipcapError("no source given; name one, as in clipcap-video watch rtsp://camera.local/stream")
        if self.out is not None and self.out.exists() and self.out.is_dir():
            raise ClipcapError(f"cannot write {self.out}, for it is a folder; give --out the name of a file")
        self.segmentation = Segmentation("shots", shortest=self.min_shot, longest=self.max_shot)


class Lines:
    """A file of JSON lines, appended to. Raises ClipcapError for a file of another kind."""

    def __init__(self, path: Path, source: str) -> None:
        there = path.exists()
        if there and Path(source).exists() and path.samefile(source):
            raise ClipcapError(f"--out {path} is the source that is watched; give another")
        if there and not _are_captions(path):
            raise ClipcapError(f"{path} is there already and no file of clipcap-video watch; give another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+", encoding="utf-8", errors="backslashreplace")

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()


def _are_captions(path: Path) -> bool:
    """Whether a file is empty, or whole lines of captions, as far as its first and its last byte tell."""
    with path.open("rb") as file:
        first = file.readline(2**20)
        try:
            is_ours = not first or {"at", "caption"} <= set(json.loads(first))
        except Exception:  # whatever is thrown at a line of something else
            return False
        file.seek(-1 if first else 0, 2)
        return is_ours and file.read() in (b"", b"\n")


def row_of(sighting: Sighting, counts: Counts) -> dict[str, Any]:
    """A line of --out, and the body of a webhook: the fields of `--to jsonl`, when it was, and what was dropped."""
    from clipcap_video.captioning.formats import Results, rows

    dropped = {"dropped_frames": counts.dropped_frames, "dropped_segments": counts.dropped_segments}
    return {
        "at": sighting.at.isoformat(timespec="milliseconds"),
        **next(rows(Results([sighting.prediction]))),
        **dropped,
    }


def _watch(config: WatchConfig) -> None:
    """Caption a live source: a line when the picture changes, with its time.

    A stream that is lost is opened again, after growing pauses. When captions fall behind, frames are dropped, and
    counted. Ctrl-C or SIGTERM ends it.

    Examples:
      clipcap-video watch rtsp://camera.local/stream --out seen.jsonl
      clipcap-video watch /dev/video0 --webhook http://127.0.0.1:9000/captions
      ffmpeg -i INPUT -f mpegts - | clipcap-video watch -
    """
    from clipcap_video.captioning.results import require_support
    from clipcap_video.captioning.run import with_defaults_of
    from clipcap_video.captioning.subtitles import clock
    from clipcap_video.captioning.watching import LiveSegments, watch
    from clipcap_video.captioning.webhook import Webhook
    from clipcap_video.stopping import stopped_by_signals

    settings = chosen_settings(config)
    source = config.source or ""
    with ExitStack() as stack:
        lines = None if config.out is None else stack.enter_context(Lines(config.out, source))
        webhook = None if config.webhook is None else stack.enter_context(Webhook(config.webhook))
        captioner = load_captioner(config)
        settings = with_defaults_of(settings, captioner, config)
        require_support(config.min_support, captioner, settings)
        stop = stack.enter_context(stopped_by_signals(threading.Event()))
        sampling, preprocess = captioner.require_fingerprint().sampling, captioner.encoder.preprocess
        segments = LiveSegments(
            source, config.segmentation, sampling, preprocess, patience=config.patience, stop=stop, tell=console.say
        )
        with segments:
            console.say(f"watching {segments.shown}; Ctrl-C ends it")
            for sighting in watch(segments, captioner, settings, repeats=config.repeats):
                best = sighting.prediction.captions[0]
                if best.support is not None and best.support < config.min_support:
                    continue
                seconds = clock(sighting.prediction.start or 0)
                print(f"{sighting.at.astimezone():%H:%M:%S}  {seconds}  {best}", flush=True)
                row = row_of(sighting, segments.counts)
                if lines is not None:
                    lines.add(row)
                if webhook is not None:
                    webhook.send(row)
        console.say(str(segments.counts))
    if webhook is not None:
        tell = partial(print, file=sys.stderr) if webhook.failed else console.say
        tell(str(webhook))


watch = Command(WatchConfig, _watch, "watch")
