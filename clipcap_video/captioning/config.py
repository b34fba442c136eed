"""The options of `inference_vtt.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipcap_video.runs.options import option

if TYPE_CHECKING:
    from clipcap_video.decoding import DecodingSettings


ARCHITECTURE = "These are read from the checkpoint; one that contradicts it is an error"


@dataclass
class InferConfig:
    """Options of `inference_vtt.py`."""

    model_dir: Path | None = option(
        None,
        "A checkpoint, the out_dir of a run, or a folder of the ClipCap programs' PREFIX-EPOCH.pt; without it, the "
        "starter captioner.",
        panel="Input",
    )
    epoch: int | None = option(None, "Take the checkpoint MODEL_DIR/PREFIX-EPOCH instead of the best.", panel="Input")
    prefix: str | None = option(
        None, "Name of the checkpoints that --epoch chooses among, if there are several.", panel="Input"
    )
    videos: list[Path] | None = option(
        None,
        "Videos to caption: a folder, a video, or a text file of paths. May be given several times.",
        panel="Input",
    )
    max_damage: float = option(
        0.05,
        "Caption a video of which at most this share of the frames is damaged; 1 takes all that can be read.",
        panel="Input",
    )
    data: Path | None = option(
        None,
        "Features to caption; without --videos, those that the model was trained on, else "
        "MSRVTT_TRNVAL_CLIP_FEATURES.hdf5 or features in the working folder.",
        panel="Input",
    )
    caption: list[Path] | None = option(
        None, "Annotations: which videos are in the split, and references to score against.", panel="Input"
    )
    paragraphs: bool = option(
        False,
        "Of timed sentences (ActivityNet Captions, DiDeMo): take each video whole, its sentences joined, and not each "
        "segment by itself.",
        panel="Input",
    )
    split: str | None = option(None, "Split to caption; test, else validate, unless given.", panel="Input")
    out: Path | None = option(
        None,
        "Where the captions go: predictions.json here with --videos, else in the model's folder.",
        panel="Output",
    )
    report: Path | None = option(
        None, "Also write a page of the videos with frames and captions (with --videos).", panel="Output"
    )

    entry_length: int | None = option(
        None, "Most tokens of a caption: 40, or 10 with a checkpoint of the ClipCap programs.", panel="Decoding"
    )
    use_beam_search: bool = option(
        False, "Beam search; otherwise greedy, or sampling if one of its options is given.", panel="Decoding"
    )
    beam_size: int | None = option(
        None,
        "Hypotheses kept by beam search: 5, or 40 where a consensus network chooses among them.",
        panel="Decoding",
    )
    no_consensus: bool = option(
        False,
        "Rank by the language model alone, even where the checkpoint has a consensus network (train-consensus). With "
        "one, beam search is the default.",
        panel="Decoding",
    )
    length_penalty: float | None = option(
        None,
        "Beams are ranked by log-probability / length ** this: 1 is the mean, 0 (the least) favours short captions. "
        "0.6 unless given, or 1 with a checkpoint of the ClipCap programs.",
        panel="Decoding",
    )
    top_p: float | None = option(None, "Sample from the fewest tokens that hold this probability.", panel="Decoding")
    top_k: int | None = option(None, "Sample from this many likeliest tokens.", panel="Decoding")
    temperature: float = option(1.0, "Sample from logits divided by this; below 1 is more careful.", panel="Decoding")
    sample: bool = option(False, "Sample, even with no other option of sampling.", panel="Decoding")
    num_return: int = option(1, "Captions for each video, best first.", panel="Decoding")
    repetition_penalty: float = option(
        1.0, "Make tokens that were used already less likely by this factor.", panel="Decoding"
    )
    no_repeat_ngram: int = option(0, "Never write the same n tokens in a row twice; 0 is off.", panel="Decoding")

    lm: str | None = option(
        None,
        "Where the frozen language model is, if not where the checkpoint says; gpt2 where it says nothing.",
        panel="Run",
    )
    encoder: str | None = option(None, "Where the encoder is, if not where the checkpoint says.", panel="Run")
    encoder_weights: Path | None = option(
        None, "A file of weights for the encoder, where its own cannot be had.", panel="Run"
    )
    bs: int = option(64, "Videos decoded at once.", panel="Run")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "auto: fp32 for captions, and bf16 for the encoder where the device is fast at it.", panel="Run"
    )
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.", panel="Run")
    seed: int = option(0, "Seed of sampling.", panel="Run")
    dry_run: bool = option(
        False, "Say what the run would take, measured on a few videos, and do nothing.", panel="Run", once=True
    )

    mapping_type: Literal["mlp", "transformer", "cross"] | None = option(None, "Mapping network.", panel=ARCHITECTURE)
    cross: bool = option(False, "The same as --mapping_type cross.", panel=ARCHITECTURE)
    prefix_length: int | None = option(None, "Prefix length.", panel=ARCHITECTURE)
    prefix_length_clip: int | None = option(None, "Most frames of a video.", panel=ARCHITECTURE)
    num_layers: int | None = option(None, "Layers of the mapping transformer.", panel=ARCHITECTURE)
    normalize_prefix: bool = option(False, "Features are divided by their L2 norm.", panel=ARCHITECTURE)
    is_rn: bool = option(False, "Features are RN50x4's, 640 wide.", panel=ARCHITECTURE)

    def __post_init__(self) -> None:
        from clipcap_video.errors import ClipcapError

        if self.cross:
            self.mapping_type = "cross"
        # Absolute, so that the run's record finds them from any working folder.
        if self.lm is not None and Path(self.lm).exists():
            self.lm = str(Path(self.lm).resolve())
        if self.encoder is not None and Path(self.encoder).is_file():
            self.encoder = str(Path(self.encoder).resolve())
        self.videos = self.videos or None
        if self.videos is None and (self.encoder or self.encoder_weights):
            raise ClipcapError("--encoder and --encoder_weights read videos; give those with --videos")
        if self.videos is not None and self.split is not None:
            raise ClipcapError(
                "--split chooses among stored features (--data); with --videos, all of them are captioned"
            )
        if self.videos is not None and self.data is not None:
            raise ClipcapError("--videos and --data were both given; caption video files or stored features, not both")
        if self.report is not None and self.videos is None:
            raise ClipcapError("--report shows frames, so it needs --videos")
        if self.bs < 1:
            raise ClipcapError(f"--bs must be at least 1, not {self.bs}")
        if self.epoch is not None and self.model_dir is None:
            raise ClipcapError("--epoch chooses a checkpoint of a run; give the run with --model_dir")


def chosen_settings(config: object) -> DecodingSettings:
    """The decoding settings among a command's options; what was not chosen is left as it is."""
    from clipcap_video.decoding import DecodingSettings

    names = {field.name for field in fields(DecodingSettings)}
    chosen = {name: value for name, value in vars(config).items() if name in names and value is not None}
    if "beam_size" not in chosen:
        chosen["beam_size"] = max(DecodingSettings.beam_size, chosen.get("num_return", 1))
    return DecodingSettings(**chosen, consensus=not getattr(config, "no_consensus", False))
