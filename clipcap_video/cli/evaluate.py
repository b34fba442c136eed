"""`clipcap-video evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    predictions: Annotated[
        Path,
        typer.Option(
            "--predictions",
            help="Captions to score: the predictions.json of inference, or a JSON object that gives each "
            "video id its caption.",
        ),
    ],
    caption: Annotated[
        list[Path],
        typer.Option(
            "--caption",
            help="Annotation file with the reference captions: MSR-VTT JSON, CSV, JSONL or another dataset's "
            "file (docs/datasets.md). Repeat it for more files.",
        ),
    ],
    paragraphs: Annotated[
        bool,
        typer.Option("--paragraphs", help="Of timed sentences: each video whole, its sentences joined."),
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Split to score, e.g. test. Without it, the split that the predictions name; if they name "
            "none, the videos that they caption.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File for the scores; without it, scores.json beside the predictions."),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow_missing",
            help="Score the videos that have a prediction even if others of the split have none. Such "
            "scores do not compare with published ones.",
        ),
    ] = False,
) -> None:
    """Score captions with the official metrics: BLEU, METEOR, ROUGE-L and CIDEr.

    The figures are those of the COCO caption evaluation that papers report. METEOR needs Java; without it the
    other figures come out the same and METEOR is left out.
    """
    from clipcap_video.datasets.records import read_annotations, under_names
    from clipcap_video.metrics.captioning import describe_scores, evaluate_captions, save_scores
    from clipcap_video.predictions import load_captions_and_split

    captions, own_split = load_captions_and_split(predictions)
    split = split or own_split
    records = under_names(read_annotations(caption, paragraphs), captions)
    scores = evaluate_captions(captions, records, split, allow_missing=allow_missing)
    out = out or predictions.with_name("scores.json")
    save_scores(scores, out, split)
    print(describe_scores(scores))
    print(f"written to {out}")
