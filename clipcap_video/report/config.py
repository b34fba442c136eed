"""The options of `clipcap-video report`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from clipcap_video.runs.options import FILE, LARGEST_SEED, Options, option


@dataclass
class ReportConfig(Options):
    """Options of `clipcap-video report`."""

    predictions: Path = option(
        MISSING,
        "The predictions.json of inference, or the STEM.captions.jsonl of a long video.",
        argument=True,
    )
    out: Path = option(Path("report.html"), "The page to write.", made=FILE)
    videos: list[Path] | None = option(
        None,
        "Where the videos are, if not where they were: a folder, a video, or a text file of paths. May be given "
        "several times.",
    )
    data: Path | None = option(
        None, "The features that the captions were made from: the page then shows how much each frame mattered."
    )
    caption: list[Path] | None = option(None, "Annotations: the page then shows references and each caption's CIDEr.")
    model_dir: Path | None = option(
        None, "With --features: the captioner, if it is no longer where the predictions say."
    )
    lm: str | None = option(None, "With --features: the frozen language model, if not where the checkpoint says.")
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")
    judged: Path | None = option(
        None,
        "A CSV file of video, judgement (right, partly or wrong) and, if you like, note: what people found who looked. "
        "The page then shows each verdict and their number.",
    )
    sample: int = option(0, "Show so many videos, drawn at random, such as to judge them; 0 shows all.")
    seed: int = option(0, "What --sample draws follows from it and the names of the videos.", most=LARGEST_SEED)
    frames: int | None = option(
        None, "Frames shown of each video: 8, or 5 on a page of more than 300, unless given.", most=1000
    )
    frame_size: int | None = option(
        None, "Their longer side in pixels: 240, or 160 on a page of more than 300, unless given.", most=4096
    )
