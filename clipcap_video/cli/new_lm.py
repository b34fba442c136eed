"""`clipcap-video new-lm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_lm(
    caption: Annotated[list[Path], typer.Option("--caption", help="Annotation files whose captions it will write.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the language model and its tokenizer.")],
    split: Annotated[str, typer.Option("--split", help="Split that the vocabulary is learned from.")] = "train",
    vocab_size: Annotated[
        int, typer.Option("--vocab_size", help="Subwords in the vocabulary, at most.", min=300)
    ] = 8000,
    layers: Annotated[int, typer.Option("--layers", help="Transformer layers.", min=1)] = 6,
    width: Annotated[int, typer.Option("--width", help="Width of the embeddings.", min=8)] = 384,
    heads: Annotated[int, typer.Option("--heads", help="Attention heads; divides the width.", min=1)] = 6,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the initial weights.", min=0)] = 0,
) -> None:
    """Make a small untrained GPT-2 and a tokenizer for your captions.

    For machines where no pre-trained language model can be had, or where it would be too large: train_vtt.py --lm OUT,
    without --only_prefix and with --lm_lr as high as --lr, trains it from scratch together with the mapping network.
    """
    from clipcap_video.datasets.records import read_annotations, select
    from clipcap_video.models.language_model import create_language_model

    records = select(read_annotations(caption), split)
    captions = [text for record in records for text in record.captions]
    create_language_model(captions, out, vocab_size=vocab_size, layers=layers, width=width, heads=heads, seed=seed)
    print(f"wrote an untrained language model for {len(captions):,} captions to {out}")
