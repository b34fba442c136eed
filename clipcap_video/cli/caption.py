"""`clipcap-video caption`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap_video import console
from clipcap_video.captioning.config import (
    BESIDE_VIDEOS,
    CaptionerOptions,
    DamageOptions,
    DecodingOptions,
    FormatOptions,
    SecondOptions,
    chosen_settings,
)
from clipcap_video.captioning.formats import FORMATS, SUBTITLES, table_file
from clipcap_video.cli.command import Command
from clipcap_video.runs.options import FILE, SHARED, Options, option

if TYPE_CHECKING:
    from clipcap_video.captioning.captioner import Captioner
    from clipcap_video.captioning.long_videos import LongVideo
    from clipcap_video.captioning.predictions import Prediction
    from clipcap_video.captioning.second_opinion import SecondOpinion
    from clipcap_video.decoding import DecodingSettings
    from clipcap_video.runs.plan import Plan


@dataclass
class CaptionConfig(FormatOptions, SecondOptions, DecodingOptions, DamageOptions, CaptionerOptions, Options):
    """Options of `clipcap-video caption`."""

    videos: list[Path] = option([], "Videos, or folders of videos, to caption.", argument=True, aside=BESIDE_VIDEOS)

    segments: str = option(
        "shots",
        "shots: cut where the picture does (found by PySceneDetect). fixed:10: every 10 seconds. whole: one caption.",
        panel="Segments",
    )
    min_shot: float = option(
        2.0, "Shots shorter than this many seconds are joined with their neighbour.", panel="Segments"
    )
    max_shot: float = option(20.0, "Shots longer than this many seconds are split.", panel="Segments")

    srt: bool = option(False, "The same as --to srt.", hidden=True)
    vtt: bool = option(False, "The same as --to vtt.", hidden=True)
    jsonl: bool = option(
        False,
        "Also keep STEM.captions.jsonl: captions with times, scores and the frames' times. clipcap-video report shows "
        "it as a page, and tables are made of it.",
        panel="Output",
    )
    out_dir: Path | None = option(
        None,
        "Folder for the files; beside each video, where players look for them, unless given.",
        panel="Output",
        made=SHARED,
    )
    overwrite: bool = option(False, "Replace files that are there already.", panel="Output")

    bs: int = option(16, "Segments captioned at once.", panel="Run", least=1)
    dry_run: bool = option(
        False, "Say what the run would take, measured on parts of the videos, and do nothing.", panel="Run", once=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        from clipcap_video.errors import ClipcapError
        from clipcap_video.video.segments import Segmentation

        if not self.videos:
            raise ClipcapError("no video given; name one, as in clipcap-video caption talk.mp4")
        old = [name for name in SUBTITLES if getattr(self, name)]
        self.to = list(dict.fromkeys([*(self.to or []), *old])) or list(SUBTITLES)
        # Tables are made of the captions of all videos, also of those that were captioned before.
        self.jsonl = self.jsonl or bool(self.tables)
        self.segmentation = Segmentation.parse(self.segments, self.min_shot, self.max_shot)

    @property
    def sidecars(self) -> list[str]:
        return [name for name in self.to or [] if FORMATS[name].is_sidecar]

    @property
    def tables(self) -> dict[str, Path]:
        """Format -> where the captions of all videos go."""
        out = (self.out_dir or Path()) / "captions.json"
        return {name: table_file(out, name) for name in self.to or [] if not FORMATS[name].is_sidecar}

    def outputs(self) -> list[tuple[str, Path, str]]:
        return [*(("--to", table, FILE) for table in self.tables.values()), *super().outputs()]


def load_captioner(config: CaptionerOptions) -> Captioner:
    """The captioner that a command's options name, with its encoder."""
    from clipcap_video.captioning.captioner import Captioner
    from clipcap_video.captioning.run import remember
    from clipcap_video.models.checkpoint import find_checkpoint

    checkpoint = None if config.model_dir is None else find_checkpoint(config.model_dir)
    captioner = Captioner.from_pretrained(checkpoint, lm=config.lm, device=config.device, precision=config.precision)
    captioner.load_encoder(config.encoder, config.encoder_weights)
    remember(captioner, config.memory)
    return captioner


def _caption(config: CaptionConfig) -> None:
    """Caption long videos: shot by shot, with times, as subtitles.

    Writes STEM.srt and STEM.vtt beside each video and prints the captions. Ctrl-C leaves the subtitles of the part that
    is done, and the same command resumes from there.

    Examples:
      clipcap-video caption talk.mp4
      clipcap-video caption films/ --to vtt --to jsonl --out subtitles/
      clipcap-video caption talk.mp4 --segments fixed:10 --min_support 0.5
      clipcap-video caption films/ --dry_run
    """
    from clipcap_video.captioning.formats import Results, require_formats, write_tables
    from clipcap_video.captioning.results import require_support
    from clipcap_video.captioning.run import with_defaults_of
    from clipcap_video.captioning.second_opinion import second_opinion
    from clipcap_video.errors import VideoError
    from clipcap_video.runs.record import record_file, record_run
    from clipcap_video.video.files import find_all_videos, id_of, shown

    settings = chosen_settings(config)
    videos = list(find_all_videos(config.videos, partial(print, file=sys.stderr)).values())
    require_formats(config.to or [])
    several = len(videos) > 1
    todo = (
        videos
        if config.overwrite or config.tables
        else [path for path in videos if not _is_done(path, config.out_dir, config.sidecars, several)]
    )
    if config.dry_run:
        print(_plan(config, settings, todo, len(videos) - len(todo)).describe())
        return
    if not todo:
        return
    captioner = load_captioner(config)
    settings = with_defaults_of(settings, captioner, config)
    require_support(config.min_support, captioner, settings)
    second = second_opinion(config, captioner, settings)
    captioned: list[Prediction] = []
    failures: list[tuple[str, str, str]] = []
    for path in todo:
        if several:
            print(f"{shown(path)}:")
        try:
            done = _caption_one(config, captioner, settings, second, path)
        except VideoError as error:
            print(f"could not read {id_of(path)}: {error}", file=sys.stderr)
            failures.append((id_of(path), str(path), str(error)))
            continue
        captioned += done.predictions
    if second is not None:
        console.say(second.describe())
    if config.tables:  # before they are written: a run that is killed in between would not know them for its own
        record_run(record_file(next(iter(config.tables.values()))), "caption", config)
    write_tables(config.tables, Results(captioned, failures, str(captioner.source), None, asdict(settings)))
    for name, table in config.tables.items():
        print(f"{name}: {table}")
    if failures:
        sys.exit(1)


def _plan(config: CaptionConfig, settings: DecodingSettings, todo: list[Path], done: int) -> Plan:
    from clipcap_video.captioning.plan import plan_captions
    from clipcap_video.captioning.results import require_support
    from clipcap_video.captioning.run import with_defaults_of
    from clipcap_video.runs.plan import Plan

    if not todo:
        return Plan("caption", 0, done=done)
    captioner = load_captioner(config)
    settings = with_defaults_of(settings, captioner, config)
    require_support(config.min_support, captioner, settings)
    where = "the videos' folders" if config.out_dir is None else str(config.out_dir)
    plan = plan_captions(
        captioner, todo, config.segmentation, settings, to=config.sidecars, where=where, done=done,
        batch_size=config.bs, max_damage=config.max_damage,
    )  # fmt: skip
    if config.second_opinion is not None:
        plan.notes.append("asking --second_opinion comes on top")
    return plan


def _caption_one(
    config: CaptionConfig, captioner: Captioner, settings: DecodingSettings, second: SecondOpinion | None, path: Path
) -> LongVideo:
    """Captions one video; the program ends here where that was stopped."""
    from clipcap_video.captioning.long_videos import caption_long_video
    from clipcap_video.captioning.subtitles import clock
    from clipcap_video.runs.record import record_file, record_run
    from clipcap_video.video.files import id_of

    done = caption_long_video(
        captioner,
        path,
        config.segmentation,
        settings,
        folder=config.out_dir,
        to=config.sidecars,
        wording=config.wording,
        keep_log=config.jsonl,
        overwrite=config.overwrite,
        batch_size=config.bs,
        max_damage=config.max_damage,
        second=second,
        tell=partial(print, flush=True),
    )
    if done.warning is not None:
        print(f"warning: {id_of(path)}: {done.warning}", file=sys.stderr)
    if config.jsonl:
        record_run(record_file(done.files[-1]), "caption", config)
    print(f"written: {', '.join(map(str, done.files))}")
    if not done.finished:
        end = clock(done.predictions[-1].end or 0) if done.predictions else "the start"
        print(f"stopped at {end}; the same command resumes from there", file=sys.stderr)
        sys.exit(130)
    return done


def _is_done(path: Path, folder: Path | None, to: list[str], several: bool) -> bool:
    """Whether a video has its subtitles. One of several is passed over with a line; one alone is an error."""
    from clipcap_video.captioning.long_videos import check_absent
    from clipcap_video.errors import ClipcapError, VideoError

    try:
        check_absent(path, folder, to)
    except VideoError:  # which captioning it will say, and count
        return False
    except ClipcapError as error:
        if not several:
            raise
        print(f"{path} is left out: {error}")
        return True
    return False


caption = Command(CaptionConfig, _caption, "caption")
