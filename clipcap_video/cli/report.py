"""`clipcap-video report`."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import Options, option


@dataclass
class ReportConfig(Options):
    """Options of `clipcap-video report`."""

    predictions: Path = option(
        MISSING,
        "The predictions.json of inference, or the STEM.captions.jsonl of a long video.",
        argument=True,
    )
    out: Path = option(Path("report.html"), "The page to write.", made=True)
    videos: list[Path] | None = option(
        None,
        "Where the videos are, if not where they were: a folder, a video, or a text file of paths. May be given "
        "several times.",
    )
    data: Path | None = option(
        None, "The features that the captions were made from: the page then shows how much each frame mattered."
    )
    caption: list[Path] | None = option(None, "Annotations: the page then shows references and each caption's CIDEr.")
    model_dir: Path | None = option(None, "With --data: the captioner, if it is no longer where the predictions say.")
    lm: str | None = option(None, "With --data: the frozen language model, if not where the checkpoint says.")
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")
    judged: Path | None = option(
        None,
        "A CSV file of video, judgement (right, partly or wrong) and, if you like, note: what people found who looked. "
        "The page then shows each verdict and their number.",
    )
    sample: int = option(0, "Show so many videos, drawn at random, such as to judge them; 0 shows all.")
    seed: int = option(0, "What --sample draws follows from it and the names of the videos.")
    frames: int | None = option(None, "Frames shown of each video: 8, or 5 on a page of more than 300, unless given.")
    frame_size: int | None = option(
        None, "Their longer side in pixels: 240, or 160 on a page of more than 300, unless given."
    )


def _report(config: ReportConfig) -> Path:
    """Make a page of captions: one file that asks for nothing from anywhere.

    It shows the frames with their times, all captions of each video with their confidence, references and CIDEr where
    annotations are given, and how much each frame mattered for the caption where features are; to be sorted, filtered
    and searched.
    """
    from clipcap_video.report.run import make_page

    notes = make_page(
        config.predictions,
        config.out,
        videos=config.videos or None,
        data=config.data,
        caption=config.caption or None,
        model_dir=config.model_dir,
        lm=config.lm,
        device=config.device,
        judged=config.judged,
        sample=config.sample,
        seed=config.seed,
        frames=config.frames,
        frame_size=config.frame_size,
    )
    for note in notes:
        print(note, file=sys.stderr)
    print(f"page: {config.out} ({config.out.stat().st_size / 1e6:.1f} MB)")
    return config.out


report = Command(ReportConfig, _report, "report")
