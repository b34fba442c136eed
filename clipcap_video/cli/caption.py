"""`clipcap-video caption`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap_video.captioning.config import CaptionerOptions, DamageOptions, DecodingOptions, chosen_settings
from clipcap_video.cli.command import Command
from clipcap_video.runs.options import SHARED, Options, option

if TYPE_CHECKING:
    from clipcap_video.captioning.captioner import Captioner


@dataclass
class CaptionConfig(DecodingOptions, DamageOptions, CaptionerOptions, Options):
    """Options of `clipcap-video caption`."""

    videos: list[Path] = option([], "Videos, or folders of videos, to caption.", argument=True)

    segments: str = option(
        "shots",
        "shots: cut where the picture does (found by PySceneDetect). fixed:10: every 10 seconds. whole: one caption.",
        panel="Segments",
    )
    min_shot: float = option(
        2.0, "Shots shorter than this many seconds are joined with their neighbour.", panel="Segments"
    )
    max_shot: float = option(20.0, "Shots longer than this many seconds are split.", panel="Segments")

    srt: bool = option(
        False, "Write STEM.srt, and STEM.vtt only with --vtt. Without either, both are written.", panel="Output"
    )
    vtt: bool = option(False, "Write STEM.vtt, for browsers, and STEM.srt only with --srt.", panel="Output")
    jsonl: bool = option(
        False,
        "Also keep STEM.captions.jsonl: captions with times, scores and the frames' times. clipcap-video report shows "
        "it as a page.",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        from clipcap_video.errors import ClipcapError
        from clipcap_video.video.segments import Segmentation

        if not self.videos:
            raise ClipcapError("no video given; name one, as in clipcap-video caption talk.mp4")
        self.segmentation = Segmentation.parse(self.segments, self.min_shot, self.max_shot)


def load_captioner(config: CaptionerOptions) -> Captioner:
    """The captioner that a command's options name, with its encoder."""
    from clipcap_video.captioning.captioner import Captioner
    from clipcap_video.models.checkpoint import find_checkpoint

    checkpoint = None if config.model_dir is None else find_checkpoint(config.model_dir)
    captioner = Captioner.from_pretrained(checkpoint, lm=config.lm, device=config.device, precision=config.precision)
    captioner.load_encoder(config.encoder, config.encoder_weights)
    return captioner


def _caption(config: CaptionConfig) -> None:
    """Caption long videos: shot by shot, with times, as subtitles.

    Writes STEM.srt and STEM.vtt beside each video and prints the captions. Ctrl-C leaves the subtitles of the part that
    is done, and the same command resumes from there.

    Examples:
      clipcap-video caption talk.mp4
      clipcap-video caption films/ --to vtt --to jsonl --out subtitles/
      clipcap-video caption talk.mp4 --segments fixed:10 --min_support 0.5
    """
    from clipcap_video.captioning.long_videos import FORMATS, caption_long_video
    from clipcap_video.captioning.run import with_defaults_of
    from clipcap_video.captioning.subtitles import clock
    from clipcap_video.errors import VideoError
    from clipcap_video.runs.record import record_run
    from clipcap_video.video.files import find_all_videos, id_of, shown

    settings = chosen_settings(config)
    videos = list(find_all_videos(config.videos, partial(print, file=sys.stderr)).values())
    kinds = [kind for kind in FORMATS if getattr(config, kind)] or list(FORMATS)
    several = len(videos) > 1
    todo = (
        videos if config.overwrite else [path for path in videos if not _is_done(path, config.out_dir, kinds, several)]
    )
    if not todo:
        return
    captioner = load_captioner(config)
    failed = False
    for path in todo:
        if several:
            print(f"{shown(path)}:")
        try:
            done = caption_long_video(
                captioner,
                path,
                config.segmentation,
                with_defaults_of(settings, captioner, config),
                folder=config.out_dir,
                kinds=kinds,
                keep_log=config.jsonl,
                overwrite=config.overwrite,
                batch_size=config.bs,
                max_damage=config.max_damage,
                tell=partial(print, flush=True),
            )
        except VideoError as error:
            print(f"could not read {id_of(path)}: {error}", file=sys.stderr)
            failed = True
            continue
        if done.warning is not None:
            print(f"warning: {id_of(path)}: {done.warning}", file=sys.stderr)
        if config.jsonl:
            record_run(done.files[-1], "caption", config)
        print(f"written: {', '.join(map(str, done.files))}")
        if not done.finished:
            end = clock(done.predictions[-1].end or 0) if done.predictions else "the start"
            print(f"stopped at {end}; the same command resumes from there", file=sys.stderr)
            sys.exit(130)
    if failed:
        sys.exit(1)


def _is_done(path: Path, folder: Path | None, kinds: list[str], several: bool) -> bool:
    """Whether a video has its subtitles. One of several is passed over with a line; one alone is an error."""
    from clipcap_video.captioning.long_videos import check_absent
    from clipcap_video.errors import ClipcapError, VideoError

    try:
        check_absent(path, folder, kinds)
    except VideoError:  # which captioning it will say, and count
        return False
    except ClipcapError as error:
        if not several:
            raise
        print(f"{path} is left out: {error}")
        return True
    return False


caption = Command(CaptionConfig, _caption, "caption")
