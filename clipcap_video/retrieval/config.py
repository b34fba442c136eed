"""The options of `clipcap-video train-retrieval`; CLIP4Clip's names where it has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipcap_video.runs.defaults import default_annotations, default_features
from clipcap_video.runs.options import ANY, Options, absolute, check_prefix, option
from clipcap_video.runs.registry import Registry

SIMILARITY_HEADS = Registry(
    "similarity head",
    {
        "meanP": "clipcap_video.retrieval.heads:MeanHead",
        "seqLSTM": "clipcap_video.retrieval.heads:LSTMHead",
        "seqTransf": "clipcap_video.retrieval.heads:TransformerHead",
        "tightTransf": "clipcap_video.retrieval.heads:TightHead",
    },
)


@dataclass
class RetrievalTrainConfig(Options):
    """Options of a retrieval run."""

    data: Path | None = option(
        None,
        "Stored features: the folder from extract_features.py, or an .hdf5 file. features unless given.",
        panel="Data",
        free=True,
        unless={"videos": ANY},
    )
    videos: list[Path] | None = option(
        None,
        "Train end to end, CLIP and all, from these videos instead of stored features: a folder, a video or a text "
        "file of paths. May be given several times.",
        panel="Data",
        free=True,
    )
    caption: list[Path] | None = option(
        None,
        "Annotations, as for train_vtt.py. videodatainfo.json unless given. May be given several times.",
        panel="Data",
        free=True,
    )
    out_dir: Path = option(
        Path("out_retrieval"), "Where the checkpoints and metrics.jsonl go.", panel="Data", free=True
    )
    train_split: str = option("train", "Split to train on.", panel="Data")
    eval_split: str = option(
        "validate",
        "Split to validate on; skipped when the annotations have none.",
        panel="Data",
        unless={"eval_every": 0},
    )
    expand_msrvtt_sentences: bool = option(
        False, "An epoch is every caption; otherwise every video with one of its captions, taking turns.", panel="Data"
    )
    paragraphs: bool = option(
        False,
        "Of timed sentences (ActivityNet Captions, DiDeMo): take each video whole, its sentences joined.",
        panel="Data",
    )
    max_words: int = option(
        32,
        "Tokens of a caption that the trained CLIP reads, first and last included.",
        panel="Data",
        least=2,
        needs={"videos": ANY},
    )
    max_frames: int = option(12, "Most frames of a video.", panel="Data", least=1)
    slice_framepos: Literal["0", "1", "2"] = option(
        "2", "Of more frames than that take 0: the first, 1: the last, 2: some at equal distances.", panel="Data"
    )
    feature_framerate: float = option(
        1.0, "Frames a second taken of --videos.", panel="Data", above=0, needs={"videos": ANY}
    )
    workers: int = option(2, "Threads that decode --videos.", panel="Data", free=True, least=1, needs={"videos": ANY})

    sim_header: str = option("meanP", "Similarity head.", panel="Model", choices=SIMILARITY_HEADS)
    cross_num_hidden_layers: int = option(
        4,
        "Layers of the heads seqTransf and tightTransf.",
        panel="Model",
        least=1,
        unless={"sim_header": ("meanP", "seqLSTM"), "init_from": ANY},
    )
    text_encoder: str = option(
        "all-minilm-l6-v2",
        "Frozen text encoder beside stored features: all-minilm-l6-v2, st:NAME_OR_PATH, or a CLIP or SigLIP encoder.",
        panel="Model",
        unless={"videos": ANY, "init_from": ANY},
    )
    dim: int = option(
        256,
        "Width of the space where stored features and texts meet; 0: theirs, without projections.",
        panel="Model",
        least=0,
        unless={"videos": ANY, "init_from": ANY},
    )
    dropout: float = option(
        0.1,
        "Dropout before the projections.",
        panel="Model",
        least=0,
        below=1,
        unless={"videos": ANY, "init_from": ANY, "dim": 0},
    )
    pretrained_clip_name: str = option(
        "ViT-B/32",
        "CLIP to train on --videos: a ViT of OpenAI's clip, or a path to its .pt.",
        panel="Model",
        needs={"videos": ANY},
        unless={"init_from": ANY},
    )
    linear_patch: Literal["2d", "3d"] = option(
        "2d",
        "How frames of --videos become patches: each by itself, or with its neighbours.",
        panel="Model",
        needs={"videos": ANY},
    )
    freeze_layer_num: int = option(
        0,
        "CLIP's embeddings and layers below this one stay frozen; -1 trains everything.",
        panel="Model",
        least=-1,
        needs={"videos": ANY},
    )
    init_from: Path | None = option(
        None, "Begin with the weights of this retrieval model, whatever it was trained on.", panel="Model"
    )

    epochs: int = option(5, "Passes over the data.", panel="Optimisation", least=1)
    bs: int = option(
        128,
        "Pairs of text and video in a batch, each of which is negative for the others.",
        panel="Optimisation",
        least=2,
    )
    grad_accum: int = option(1, "Batches a step; negatives stay within a batch.", panel="Optimisation", least=1)
    lr: float = option(1e-4, "Peak learning rate of everything but CLIP.", panel="Optimisation", above=0)
    coef_lr: float = option(
        1e-3, "CLIP's learning rate is --lr times this.", panel="Optimisation", above=0, needs={"videos": ANY}
    )
    warmup_proportion: float = option(
        0.1, "Share of the run in which the rate rises.", panel="Optimisation", least=0, below=1
    )
    weight_decay: float = option(
        0.2, "Weight decay of matrices; biases and norms have none.", panel="Optimisation", least=0
    )
    clip_norm: float = option(1.0, "Gradients are scaled down to this norm; 0 is off.", panel="Optimisation", least=0)
    max_minutes: float = option(
        0.0,
        "End the run after so many minutes of training, validation not counted; 0 is no limit.",
        panel="Optimisation",
        free=True,
        least=0,
    )
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "auto is bf16 where the device is fast at it.", panel="Optimisation"
    )
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.", panel="Optimisation", free=True)
    seed: int = option(0, "Every random choice follows from it.", panel="Optimisation", least=0)

    prefix: str = option(
        "prefix", "Name of the kept checkpoints: OUT_DIR/PREFIX-EPOCH.", panel="Checkpoints", free=True
    )
    save_every: int = option(
        0,
        "Keep a checkpoint every so many epochs; 0 keeps best and last only.",
        panel="Checkpoints",
        free=True,
        least=0,
    )
    eval_every: int = option(
        1, "Validate every so many epochs, and at the end; 0 never.", panel="Checkpoints", free=True, least=0
    )
    track: str | None = option(
        None,
        "Also send the numbers to this tracker, e.g. tensorboard; see docs/runs.md.",
        panel="Checkpoints",
        free=True,
    )
    resume: bool = option(False, "Go on from OUT_DIR/last, or start if there is none.", panel="Checkpoints", once=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.caption = self.caption or [default_annotations()]
        self.videos = self.videos or None
        if not self.videos:
            self.data = self.data or default_features()
        self.pretrained_clip_name = absolute(self.pretrained_clip_name) or self.pretrained_clip_name
        check_prefix(self.prefix)

    @property
    def end_to_end(self) -> bool:
        """Whether CLIP itself is trained, from frames."""
        return self.videos is not None


@dataclass
class RetrievalEvaluationConfig(Options):
    """Options of `clipcap-video evaluate-retrieval`."""

    model_dir: Path = option(Path("out_retrieval"), "A retrieval model: the out_dir of a run, or a checkpoint.")
    data: Path | None = option(None, "Stored features. Unless given, those that the model was trained on.")
    videos: list[Path] | None = option(
        None, "Videos, for a model that was trained on videos. Unless given, those that it was trained on."
    )
    caption: list[Path] | None = option(None, "Annotations. Unless given, those that the model was trained on.")
    split: str = option("test", "Split to score.")
    first_caption: bool = option(
        False,
        "Only the first caption of each video is a query, as in MSR-VTT 1k-A; otherwise all are. Always so with "
        "tightTransf, which reads each pair of text and video anew.",
    )
    out: Path | None = option(None, "File for the scores; retrieval_SPLIT.json in MODEL_DIR unless given.", made=True)
    workers: int = option(2, "Threads that decode videos.", least=1)
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")
