"""`clipcap-video convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    old: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint PREFIX-EPOCH.pt of ClipCap or its MSR-VTT version, or pytorch_model.bin.N of CLIP4Clip."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint; it must not exist.")],
    lm: Annotated[
        str,
        typer.Option(
            "--lm",
            help="The language model that it was trained with, which the file does not name: a Hugging Face name or a "
            "local folder.",
        ),
    ] = "gpt2",
    cross: Annotated[
        bool, typer.Option("--cross", help="It was trained with --cross, which the file does not tell.")
    ] = False,
    normalize_prefix: Annotated[
        bool, typer.Option("--normalize_prefix", help="It was trained with --normalize_prefix.")
    ] = False,
    prefix_length_clip: Annotated[
        int, typer.Option("--prefix_length_clip", help="Frames of each video that it was trained on.", min=1)
    ] = 28,
    max_frames: Annotated[int, typer.Option("--max_frames", help="CLIP4Clip's option of that name.", min=1)] = 12,
    max_words: Annotated[int, typer.Option("--max_words", help="CLIP4Clip's option of that name.", min=2)] = 32,
) -> None:
    """Turn a checkpoint of the ClipCap programs or of CLIP4Clip into one of ours.

    Prints each key that was mapped or dropped, and each choice that was inferred. The checkpoint remembers how those
    programs decode, so inference writes the captions that they wrote. One of CLIP4Clip becomes a retrieval model: which
    head and which patch projection it has follows from the file.
    """
    from clipcap_video.errors import ClipcapError
    from clipcap_video.models.checkpoint import CheckpointInfo, save_checkpoint
    from clipcap_video.models.legacy import LegacyChoices, load_legacy
    from clipcap_video.models.legacy_retrieval import is_clip4clip, load_clip4clip
    from clipcap_video.models.retrieval_checkpoint import save_retrieval

    if out.exists():
        raise ClipcapError(f"{out} exists already; choose another --out")
    if is_clip4clip(old):
        retrieval, report = load_clip4clip(old, max_frames, max_words)
        save_retrieval(out, retrieval, CheckpointInfo())
    else:
        choices = LegacyChoices(cross=cross, normalize_prefix=normalize_prefix, frames=prefix_length_clip)
        model, report = load_legacy(old, lm, choices)
        save_checkpoint(out, model, CheckpointInfo())
    print("\n".join(report.lines()))
    print(f"written to {out}")
