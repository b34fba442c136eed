"""The options of `clipcap-video train-consensus`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from clipcap_video.consensus.config import FitConfig, Order
from clipcap_video.runs.options import FILE, LARGEST_SEED, WIDEST, Options, option


@dataclass
class ConsensusTrainConfig(Options):
    """Options of `clipcap-video train-consensus`."""

    model_dir: Path = option(Path("out"), "The captioner: the folder of a run, or a checkpoint.")
    data: Path | None = option(None, "Stored features. Unless given, those that the captioner was trained on.")
    caption: list[Path] | None = option(None, "Annotations. Unless given, those that the captioner was trained on.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str = option("validate", "Split to report on; skipped when the annotations have none.")
    raw_captions: bool = option(False, "Learn from captions as they are; see clipcap-video train.")
    ngrams: int = option(FitConfig.ngrams, "Commonest n-grams of the training captions that are predicted.", least=1)
    networks: int = option(
        FitConfig.networks, "Networks that are trained, each from another seed, and folded into one.", least=1, most=100
    )
    hidden: int = option(FitConfig.hidden, "Width of the hidden layer of each.", least=1, most=WIDEST)
    dropout: float = option(FitConfig.dropout, "Dropout before both layers.", least=0, below=1)
    mixup: float = option(
        FitConfig.mixup,
        "Videos are mixed in pairs by shares of a Beta(A, A) distribution of this A; 0 is off.",
        least=0,
    )
    epochs: int = option(FitConfig.epochs, "Passes over the videos.", least=1)
    bs: int = option(FitConfig.bs, "Videos in a batch.", least=1)
    lr: float = option(FitConfig.lr, "Learning rate at the start; it falls to nothing.", least=0, most=100)
    weight_decay: float = option(FitConfig.weight_decay, "Weight decay of matrices.", least=0)
    caution: float = option(
        2.0,
        "The default of inference's --caution with this network. The probability that a caption holds no wrong word is "
        "fitted for it, and for 0, on the split of --eval_split.",
        least=0,
        most=100,
    )
    rerank: Order = option(
        "consensus",
        "The default of inference's --rerank with this network, for which that probability is fitted. both needs an "
        "encoder that reads captions, or the features of the captioner in the box.",
    )
    overwrite: bool = option(
        False, "Replace the network that is in the checkpoint already, whatever it was trained on.", once=True
    )
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")
    seed: int = option(FitConfig.seed, "Every random choice follows from it.", most=LARGEST_SEED)

    @property
    def fit(self) -> FitConfig:
        return FitConfig(**{item.name: getattr(self, item.name) for item in fields(FitConfig)})

    def outputs(self) -> list[tuple[str, Path, str]]:
        from clipcap_video.models.checkpoint import CONSENSUS, find_checkpoint

        return [("--model_dir", find_checkpoint(self.model_dir) / CONSENSUS, FILE)]
