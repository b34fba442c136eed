"""`clipcap-video report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    predictions: Annotated[Path, typer.Argument(help="The predictions.json of inference.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    videos: Annotated[
        list[Path] | None,
        typer.Option(
            "--videos",
            help="Where the videos are, if not where they were: a folder, a video, or a text file of paths. May be "
            "given several times.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="The features that the captions were made from: the page then shows how much each frame mattered.",
        ),
    ] = None,
    caption: Annotated[
        list[Path] | None,
        typer.Option("--caption", help="Annotations: the page then shows references and each caption's CIDEr."),
    ] = None,
    model_dir: Annotated[
        Path | None,
        typer.Option("--model_dir", help="With --data: the captioner, if it is no longer where the predictions say."),
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option("--lm", help="With --data: the frozen language model, if not where the checkpoint says."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto takes CUDA, then MPS, then the CPU.")] = "auto",
    frames: Annotated[
        int | None,
        typer.Option("--frames", help="Frames shown of each video: 8, or 5 on a page of more than 300, unless given."),
    ] = None,
    frame_size: Annotated[
        int | None,
        typer.Option(
            "--frame_size", help="Their longer side in pixels: 240, or 160 on a page of more than 300, unless given."
        ),
    ] = None,
) -> None:
    """Make a page of captions: one file that asks for nothing from anywhere.

    It shows the frames with their times, all captions of each video with their confidence, references and CIDEr where
    annotations are given, and how much each frame mattered for the caption where features are; to be sorted, filtered
    and searched.
    """
    from clipcap_video.page import make_page

    notes = make_page(
        predictions,
        out,
        videos=videos,
        data=data,
        caption=caption,
        model_dir=model_dir,
        lm=lm,
        device=device,
        frames=frames,
        frame_size=frame_size,
    )
    for note in notes:
        print(note, file=sys.stderr)
    print(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")
