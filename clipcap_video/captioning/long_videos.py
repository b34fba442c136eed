"""Captions with times for long videos: one pass over the file, results on disk as they come, nothing done twice."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from clipcap_video import console
from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.formats import FORMATS, SUBTITLES, Results, Wording
from clipcap_video.captioning.log import LOG_SUFFIX, CaptionLog
from clipcap_video.captioning.predictions import Prediction, from_line, to_line
from clipcap_video.captioning.results import decided_by
from clipcap_video.captioning.second_opinion import SecondOpinion
from clipcap_video.captioning.streaming import joined
from clipcap_video.captioning.subtitles import clock
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.files import fits_a_name
from clipcap_video.stopping import Stopped, stopped_by_signals
from clipcap_video.video.damage import MAX_DAMAGE
from clipcap_video.video.files import shown
from clipcap_video.video.segments import Segmentation, SegmentedVideo


@dataclass(frozen=True)
class LongVideo:
    """What was made of one video: captions with start and end, the files written, and whether that is all of it.

    skipped: seconds that an earlier run had done. warning: one sentence about a video that is not what its header says.
    """

    predictions: list[Prediction]
    files: list[Path]
    finished: bool
    skipped: float
    warning: str | None = None


def caption_long_video(
    captioner: Captioner,
    path: Path,
    segmentation: Segmentation,
    settings: DecodingSettings,
    *,
    folder: Path | None = None,
    to: Sequence[str] = SUBTITLES,
    wording: Wording | None = None,
    keep_log: bool = False,
    overwrite: bool = False,
    batch_size: int = 16,
    progress: bool = True,
    max_damage: float = MAX_DAMAGE,
    second: SecondOpinion | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> LongVideo:
    """Captions a video and writes STEM.srt, STEM.vtt (the sidecars `to`) into `folder`, the video's own unless given.

    Captions are appended to STEM.captions.jsonl there as they come, and the subtitles of the finished part brought up
    to date. A run that was stopped resumes from there; `keep_log` keeps the file when all is done, and a later run then
    only writes the subtitles that it is asked for.
    max_damage: the largest share of damaged frames; a video with more has captions, and ends in a VideoError.
    second: another model to ask. tell: is given a line for each new caption, once it is known to be whole.

    Raises ClipcapError when the video cannot be read, when a subtitle file is there that this command is not known to
    have written, or when the log is of another video, model or choice; `overwrite` replaces them instead.
    """
    if not overwrite:
        check_absent(path, folder, to)
    folder, log_file, files = _places(path, folder, to)
    fingerprint = captioner.require_fingerprint()
    stop = threading.Event()
    preprocess = captioner.encoder.preprocess
    video = SegmentedVideo(path, segmentation, fingerprint.sampling, preprocess, stop=stop, max_damage=max_damage)
    made_by = _made_by(captioner, path, segmentation, settings) | (second.decides() if second else {})
    _make_writable(folder)

    def write(predictions: Sequence[Prediction]) -> None:
        for name, file in files.items():
            FORMATS[name].write(file, Results(predictions, wording=wording or Wording()))

    with CaptionLog(log_file, made_by, overwrite=overwrite) as log:
        if not overwrite:
            _check_absent(file for file in files.values() if file.name not in log.writes)
        skipped = (log.predictions[-1].end or 0.0) if log.predictions else 0.0
        if log.finished:
            tell(f"done before, to {clock(skipped)}, the end")
        held = None if log.finished else log.take_back()
        log.claim([file.name for file in files.values()])
        if not log.finished:
            if held is not None:
                tell(f"done before, to {clock(skipped)}")
            video.start = video.position = skipped
            with stopped_by_signals(stop, "stopping; what is finished is kept"), suppress(Stopped):
                _continue(captioner, video, settings, log, held, write, second, batch_size, progress, tell)
            if not stop.is_set():
                log.finish()
        write(log.predictions)
    if log.finished and not keep_log:
        log_file.unlink()
    written = [*files.values(), *([log_file] if keep_log or not log.finished else [])]
    return LongVideo(log.predictions, written, log.finished, skipped, video.warning)


def _make_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ClipcapError(f"cannot write into {folder}; give another place with --out")


def _continue(
    captioner: Captioner,
    video: SegmentedVideo,
    settings: DecodingSettings,
    log: CaptionLog,
    held: Prediction | None,
    write: Callable[[Sequence[Prediction]], None],
    second: SecondOpinion | None,
    batch_size: int,
    progress: bool,
    tell: Callable[[str], None],
) -> None:
    bar = tqdm(
        total=max(video.duration, video.start) or None,
        initial=video.start,
        disable=console.hides_bars(progress),
        bar_format="{l_bar}{bar}| {postfix}{remaining} left",
        leave=False,
    )
    try:
        with bar:
            for batch in captioner.caption_batches(video, settings, batch_size=batch_size):
                new = [replace(prediction, path=str(video.path)) for prediction in batch]
                new = second(new) if second else new
                # As they are read back by a run that resumes.
                new = [from_line(to_line(prediction), "") for prediction in new]
                *done, held = joined(new if held is None else [held, *new])
                for prediction in done:
                    log.append(prediction)
                    with bar.external_write_mode(sys.stdout):
                        tell(_line(prediction))
                write([*log.predictions, held])
                bar.n = min(video.position, bar.total or video.position)
                speed = (video.position - video.start) / max(bar.format_dict["elapsed"], 1e-3)
                bar.set_postfix_str(f"{clock(video.position)} of {clock(video.duration)}, {speed:.1f} x real time, ")
    finally:
        if held is not None:
            log.append(held)
            tell(_line(held))


def _line(prediction: Prediction) -> str:
    return f"{clock(prediction.start or 0)} - {clock(prediction.end or 0)}  {prediction.captions[0]}"


def check_absent(path: Path, folder: Path | None = None, to: Sequence[str] = SUBTITLES) -> None:
    """Raises ClipcapError where a video has subtitles already, and no log that tells that they are ours to replace.

    Arguments as those of `caption_long_video`, which checks this too: here it is known before a model is loaded.
    """
    _, log_file, files = _places(path, folder, to)
    if not log_file.exists():
        _check_absent(files.values())


def _places(path: Path, folder: Path | None, to: Sequence[str]) -> tuple[Path, Path, dict[str, Path]]:
    """The folder, the log and the subtitle files of a video."""
    folder = path.parent if folder is None else folder
    if not fits_a_name(f"{path.stem}{LOG_SUFFIX}"):
        raise VideoError(f"the name {shown(path.stem)} is too long for a {LOG_SUFFIX} beside it; rename the video")
    files = {name: folder / f"{path.stem}{FORMATS[name].ending}" for name in to}
    return folder, folder / f"{path.stem}{LOG_SUFFIX}", files


def _check_absent(files: Iterable[Path]) -> None:
    """Subtitles may be made by hand; those that are not known to be ours are not replaced."""
    for file in files:
        if file.exists():
            raise ClipcapError(f"{file} is there already; give --overwrite to replace it, or another --out")


def _made_by(
    captioner: Captioner, path: Path, segmentation: Segmentation, settings: DecodingSettings
) -> dict[str, str | int]:
    """What decides the captions of a video, as far as a log must know to be continued."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        content = hashlib.sha256(stream.read(1 << 20))
        stream.seek(max(0, size - (1 << 20)))
        content.update(stream.read())
    return {
        "video": f"{path.name} ({size} bytes, sha256:{content.hexdigest()[:16]})",
        "segments": str(segmentation),
        **decided_by(captioner, settings),
    }
