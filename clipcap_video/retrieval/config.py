"""The options of `clipcap-video train-retrieval`; CLIP4Clip's names where it has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipcap_video.errors import ClipcapError
from clipcap_video.runs.defaults import default_annotations, default_features
from clipcap_video.runs.options import RunConfig, check_least, check_prefix, option


@dataclass
class RetrievalTrainConfig(RunConfig):
    """Options of a retrieval run."""

    data: Path | None = option(
        None,
        "Stored features: the folder from extract_features.py, or an .hdf5 file. features unless given.",
        panel="Data",
    )
    videos: list[Path] | None = option(
        None,
        "Train end to end, CLIP and all, from these videos instead of stored features: a folder, a video or a text "
        "file of paths. May be given several times.",
        panel="Data",
    )
    caption: list[Path] | None = option(
        None,
        "Annotations, as for train_vtt.py. videodatainfo.json unless given. May be given several times.",
        panel="Data",
    )
    out_dir: Path = option(Path("out_retrieval"), "Where the checkpoints and metrics.jsonl go.", panel="Data")
    train_split: str = option("train", "Split to train on.", panel="Data")
    eval_split: str = option("validate", "Split to validate on; skipped when the annotations have none.", panel="Data")
    expand_msrvtt_sentences: bool = option(
        False, "An epoch is every caption; otherwise every video with one of its captions, taking turns.", panel="Data"
    )
    paragraphs: bool = option(
        False,
        "Of timed sentences (ActivityNet Captions, DiDeMo): take each video whole, its sentences joined.",
        panel="Data",
    )
    max_words: int = option(
        32, "Tokens of a caption that the trained CLIP reads, first and last included.", panel="Data"
    )
    max_frames: int = option(12, "Most frames of a video.", panel="Data")
    slice_framepos: Literal["0", "1", "2"] = option(
        "2", "Of more frames than that take 0: the first, 1: the last, 2: some at equal distances.", panel="Data"
    )
    feature_framerate: float = option(1.0, "Frames a second taken of --videos.", panel="Data")
    workers: int = option(2, "Threads that decode --videos.", panel="Data")

    sim_header: Literal["meanP", "seqLSTM", "seqTransf", "tightTransf"] = option(
        "meanP", "Similarity head.", panel="Model"
    )
    cross_num_hidden_layers: int = option(4, "Layers of the heads seqTransf and tightTransf.", panel="Model")
    text_encoder: str = option(
        "all-minilm-l6-v2",
        "Frozen text encoder beside stored features: all-minilm-l6-v2, st:NAME_OR_PATH, or a CLIP or SigLIP encoder.",
        panel="Model",
    )
    dim: int = option(
        256, "Width of the space where stored features and texts meet; 0: theirs, without projections.", panel="Model"
    )
    dropout: float = option(0.1, "Dropout before the projections.", panel="Model")
    pretrained_clip_name: str = option(
        "ViT-B/32", "CLIP to train on --videos: a ViT of OpenAI's clip, or a path to its .pt.", panel="Model"
    )
    linear_patch: Literal["2d", "3d"] = option(
        "2d", "How frames of --videos become patches: each by itself, or with its neighbours.", panel="Model"
    )
    freeze_layer_num: int = option(
        0, "CLIP's embeddings and layers below this one stay frozen; -1 trains everything.", panel="Model"
    )
    init_from: Path | None = option(
        None, "Begin with the weights of this retrieval model, whatever it was trained on.", panel="Model"
    )

    epochs: int = option(5, "Passes over the data.", panel="Optimisation")
    bs: int = option(
        128, "Pairs of text and video in a batch, each of which is negative for the others.", panel="Optimisation"
    )
    grad_accum: int = option(1, "Batches a step; negatives stay within a batch.", panel="Optimisation")
    lr: float = option(1e-4, "Peak learning rate of everything but CLIP.", panel="Optimisation")
    coef_lr: float = option(1e-3, "CLIP's learning rate is --lr times this.", panel="Optimisation")
    warmup_proportion: float = option(0.1, "Share of the run in which the rate rises.", panel="Optimisation")
    weight_decay: float = option(0.2, "Weight decay of matrices; biases and norms have none.", panel="Optimisation")
    clip_norm: float = option(1.0, "Gradients are scaled down to this norm; 0 is off.", panel="Optimisation")
    max_minutes: float = option(
        0.0,
        "End the run after so many minutes of training, validation not counted; 0 is no limit.",
        panel="Optimisation",
    )
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "auto is bf16 where the device is fast at it.", panel="Optimisation"
    )
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.", panel="Optimisation")
    seed: int = option(0, "Every random choice follows from it.", panel="Optimisation")

    prefix: str = option("prefix", "Name of the kept checkpoints: OUT_DIR/PREFIX-EPOCH.", panel="Checkpoints")
    save_every: int = option(
        0, "Keep a checkpoint every so many epochs; 0 keeps best and last only.", panel="Checkpoints"
    )
    eval_every: int = option(1, "Validate every so many epochs, and at the end; 0 never.", panel="Checkpoints")
    track: str | None = option(
        None, "Also send the numbers to this tracker, e.g. tensorboard; see docs/runs.md.", panel="Checkpoints"
    )
    resume: bool = option(False, "Go on from OUT_DIR/last, or start if there is none.", panel="Checkpoints")

    def __post_init__(self) -> None:
        given = [self.caption] if isinstance(self.caption, str | Path) else self.caption
        self.caption = [Path(path) for path in given or [default_annotations()]]
        self.out_dir = Path(self.out_dir)
        videos = [self.videos] if isinstance(self.videos, str | Path) else self.videos
        self.videos = [Path(path) for path in videos] if videos else None
        if self.videos and self.data:
            raise ClipcapError("--data means stored features and --videos training from frames; give one of them")
        if not self.videos:
            self.data = Path(self.data or default_features())
            if self.linear_patch == "3d":
                raise ClipcapError(
                    "--linear_patch 3d cuts frames into patches, so it needs --videos, not stored features"
                )
        if Path(self.pretrained_clip_name).is_file():
            self.pretrained_clip_name = str(Path(self.pretrained_clip_name).resolve())
        self.slice_framepos = str(self.slice_framepos)  # type: ignore[assignment]
        check_least(
            self,
            epochs=1, bs=2, grad_accum=1, max_frames=1, max_words=2, cross_num_hidden_layers=1, dim=0, workers=1,
            save_every=0, eval_every=0, weight_decay=0, clip_norm=0, seed=0, max_minutes=0, freeze_layer_num=-1,
        )  # fmt: skip
        for name in ("lr", "coef_lr", "feature_framerate"):
            if not getattr(self, name) > 0:
                raise ClipcapError(f"--{name} must be above 0, not {getattr(self, name)}")
        for name in ("dropout", "warmup_proportion"):
            if not 0 <= getattr(self, name) < 1:
                raise ClipcapError(f"--{name} must lie in [0, 1), not {getattr(self, name)}")
        check_prefix(self.prefix)

    @property
    def end_to_end(self) -> bool:
        """Whether CLIP itself is trained, from frames."""
        return self.videos is not None
