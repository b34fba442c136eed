"""The options of `clipcap-video train-consensus`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipcap_video.runs.options import RunConfig, check_least, option


@dataclass
class ConsensusTrainConfig(RunConfig):
    """Options of `clipcap-video train-consensus`."""

    model_dir: Path = option(Path("out"), "The captioner: the out_dir of a run, or a checkpoint.")
    data: Path | None = option(None, "Stored features. Unless given, those that the captioner was trained on.")
    caption: list[Path] | None = option(None, "Annotations. Unless given, those that the captioner was trained on.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str = option("validate", "Split to report on; skipped when the annotations have none.")
    raw_captions: bool = option(False, "Learn from captions as they are; see clipcap-video train.")
    ngrams: int = option(8000, "Commonest n-grams of the training captions that are predicted.")
    networks: int = option(3, "Networks that are trained, each from another seed, and folded into one.")
    hidden: int = option(192, "Width of the hidden layer of each.")
    dropout: float = option(0.5, "Dropout before both layers.")
    mixup: float = option(1.0, "Videos are mixed in pairs by shares of a Beta(A, A) distribution of this A; 0 is off.")
    epochs: int = option(24, "Passes over the videos.")
    bs: int = option(64, "Videos in a batch.")
    lr: float = option(1e-3, "Learning rate at the start; it falls to nothing.")
    weight_decay: float = option(0.05, "Weight decay of matrices.")
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")
    seed: int = option(0, "Every random choice follows from it.")

    def __post_init__(self) -> None:
        from clipcap_video.errors import ClipcapError

        check_least(self, ngrams=1, networks=1, hidden=1, dropout=0, mixup=0, epochs=1, bs=1, lr=0, weight_decay=0)
        if self.dropout >= 1:
            raise ClipcapError(f"--dropout must be below 1, not {self.dropout}")
