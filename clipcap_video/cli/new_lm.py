"""`clipcap-video new-lm`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import DEEPEST, FOLDER, LARGEST_SEED, WIDEST, Options, option


@dataclass
class NewLmConfig(Options):
    """Options of `clipcap-video new-lm`."""

    caption: list[Path] = option(MISSING, "Annotation files whose captions it will write.")
    out: Path = option(MISSING, "Folder for the language model and its tokenizer.", made=FOLDER)
    split: str = option("train", "Split that the vocabulary is learned from.")
    text: list[Path] | None = option(
        None, "Files of further captions, one a line (.gz too), of no video; the vocabulary is learned from them too."
    )
    lower_case: bool = option(False, "Captions in lower case and without a full stop at their end; see train.")
    epochs: int = option(
        0, "Passes over the captions in which the model learns to write them, before any video; 0 is none.", least=0
    )
    lr: float = option(8e-4, "Peak learning rate of these.", above=0, most=100, unless={"epochs": 0})
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.", unless={"epochs": 0})
    vocab_size: int = option(8000, "Subwords in the vocabulary, at most.", least=300)
    layers: int = option(6, "Transformer layers.", least=1, most=DEEPEST)
    width: int = option(384, "Width of the embeddings.", least=8, most=WIDEST)
    heads: int = option(6, "Attention heads; divides the width.", least=1)
    seed: int = option(0, "Seed of the initial weights.", most=LARGEST_SEED)


def _new_lm(config: NewLmConfig) -> None:
    """Make a small GPT-2 and a tokenizer for your captions.

    For machines where no pre-trained language model can be had, or where it would be too large: train_vtt.py --lm OUT,
    without --only_prefix and with --lm_lr as high as --lr, trains it together with the mapping network.

    Examples:
      clipcap-video new-lm --annotations captions.csv --out lm/ --vocab_size 2000
      clipcap-video new-lm --annotations captions.csv --text more_captions.txt.gz --epochs 1 --out lm/
    """
    from clipcap_video.datasets.annotations import read_annotations
    from clipcap_video.datasets.cleaning import fix_caption, plain_caption
    from clipcap_video.datasets.records import select
    from clipcap_video.datasets.source import read_lines
    from clipcap_video.models.language_model import create_language_model
    from clipcap_video.training.pretraining import pretrain

    records = select(read_annotations(config.caption), config.split)
    captions = [text for record in records for text in record.captions]
    captions += [line for file in config.text or [] for line in read_lines(file)]
    captions = [fix_caption(text) for text in captions]
    if config.lower_case:
        captions = [plain_caption(text) for text in captions]
    losses = []

    def teach(model: Any, tokenizer: Any) -> None:
        if config.epochs:
            loss = pretrain(
                model, tokenizer, captions, epochs=config.epochs, lr=config.lr, seed=config.seed, device=config.device
            )
            losses.append(loss)

    create_language_model(
        captions,
        config.out,
        vocab_size=config.vocab_size,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        seed=config.seed,
        teach=teach,
    )
    made = f"a language model (loss {losses[0]:.2f})" if losses else "an untrained language model"
    print(f"wrote {made} for {len(captions):,} captions to {config.out}")


new_lm = Command(NewLmConfig, _new_lm, "new-lm", records=True)
