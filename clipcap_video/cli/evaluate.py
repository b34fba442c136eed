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
    bootstrap: Annotated[
        int,
        typer.Option(
            "--bootstrap",
            help="Resamples of the videos that give each figure a 95 % interval; 1000 is usual, 0 gives none.",
            min=0,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of --bootstrap.", min=0)] = 0,
    confidence_curve: Annotated[
        Path | None,
        typer.Option(
            "--confidence_curve",
            help="Draw CIDEr by the captions' mean log-probability to this file (.png, .svg or .pdf), and print it "
            "as a table: what a threshold on confidence would give.",
        ),
    ] = None,
) -> None:
    """Score captions with the official metrics: BLEU, METEOR, ROUGE-L and CIDEr.

    The figures are those of the COCO caption evaluation that papers report. METEOR needs Java; without it the
    other figures come out the same and METEOR is left out.
    """
    from clipcap_video.datasets.records import read_annotations, under_names
    from clipcap_video.metrics.captioning import describe_scores, evaluate_captions, save_scores
    from clipcap_video.predictions import PredictionFile, load_captions_and_split

    captions, own_split = load_captions_and_split(predictions)
    split = split or own_split
    records = under_names(read_annotations(caption, paragraphs), captions)
    sure = PredictionFile.load(predictions).confidence() if confidence_curve is not None else {}
    scores = evaluate_captions(captions, records, split, allow_missing=allow_missing, bootstrap=bootstrap, seed=seed)
    out = out or predictions.with_name("scores.json")
    save_scores(scores, out, split)
    print(describe_scores(scores))
    print(f"written to {out}")
    if confidence_curve is not None:
        from clipcap_video.export.confidence import draw_confidence_curve
        from clipcap_video.metrics.confidence import confidence_curve as curve_of
        from clipcap_video.metrics.confidence import describe_curve

        bins, correlation = curve_of(sure, scores.per_video)
        print(describe_curve(bins, correlation))
        print(f"curve: {draw_confidence_curve(bins, confidence_curve)}")
