"""`clipcap-video new-lm`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import DEEPEST, FOLDER, LARGEST_SEED, WIDEST, Options, option


@dataclass
class NewLmConfig(Options):
    """Options of `clipcap-video new-lm`."""

    caption: list[Path] = option(MISSING, "Annotation files whose captions it will write.")
    out: Path = option(MISSING, "Folder for the language model and its tokenizer.", made=FOLDER)
    split: str = option("train", "Split that the vocabulary is learned from.")
    vocab_size: int = option(8000, "Subwords in the vocabulary, at most.", least=300)
    layers: int = option(6, "Transformer layers.", least=1, most=DEEPEST)
    width: int = option(384, "Width of the embeddings.", least=8, most=WIDEST)
    heads: int = option(6, "Attention heads; divides the width.", least=1)
    seed: int = option(0, "Seed of the initial weights.", most=LARGEST_SEED)


def _new_lm(config: NewLmConfig) -> Path:
    """Make a small untrained GPT-2 and a tokenizer for your captions.

    For machines where no pre-trained language model can be had, or where it would be too large: train_vtt.py --lm OUT,
    without --only_prefix and with --lm_lr as high as --lr, trains it from scratch together with the mapping network.

    Examples:
      clipcap-video new-lm --annotations captions.csv --out lm/ --vocab_size 2000
    """
    from clipcap_video.datasets.annotations import read_annotations
    from clipcap_video.datasets.records import select
    from clipcap_video.models.language_model import create_language_model

    records = select(read_annotations(config.caption), config.split)
    captions = [text for record in records for text in record.captions]
    create_language_model(
        captions,
        config.out,
        vocab_size=config.vocab_size,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        seed=config.seed,
    )
    print(f"wrote an untrained language model for {len(captions):,} captions to {config.out}")
    return config.out


new_lm = Command(NewLmConfig, _new_lm, "new-lm")
