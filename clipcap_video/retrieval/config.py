"""The options of `clipcap-video train-retrieval`; CLIP4Clip's names where it has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from clipcap_video.runs.defaults import default_annotations, default_features
from clipcap_video.runs.options import (
    ANY,
    DEEPEST,
    FILE,
    LARGEST_SEED,
    SHARED,
    WIDEST,
    Options,
    Registry,
    absolute,
    check_prefix,
    option,
)

SIMILARITY_HEADS = Registry(
    "similarity head",
    {
        "meanP": "clipcap_video.retrieval.heads:MeanHead",
        "seqLSTM": "clipcap_video.retrieval.heads:LSTMHead",
        "seqTransf": "clipcap_video.retrieval.heads:TransformerHead",
        "tightTransf": "clipcap_video.retrieval.heads:TightHead",
    },
)


CROSS_LAYERS = 4  # CLIP4Clip's

_data, _model, _step, _kept = (partial(option, panel=name) for name in ("Data", "Model", "Optimisation", "Checkpoints"))


@dataclass
class RetrievalTrainConfig(Options):
    """Options of a retrieval run."""

    data: Path | None = _data(
        None,
        "Stored features: the folder from extract_features.py, or an .hdf5 file. features unless given.",
        free=True,
        unless={"videos": ANY},
    )
    videos: list[Path] | None = _data(
        None,
        "Train end to end, CLIP and all, from these videos instead of stored features: a folder, a video or a text "
        "file of paths. May be given several times.",
        free=True,
    )
    caption: list[Path] | None = _data(
        None,
        "Annotations, as for train_vtt.py. videodatainfo.json unless given. May be given several times.",
        free=True,
    )
    out_dir: Path = _data(Path("out_retrieval"), "Where the checkpoints and metrics.jsonl go.", free=True, made=SHARED)
    train_split: str = _data("train", "Split to train on.")
    eval_split: str = _data(
        "validate", "Split to validate on; skipped when the annotations have none.", unless={"eval_every": 0}
    )
    expand_msrvtt_sentences: bool = _data(
        False, "An epoch is every caption; otherwise every video with one of its captions, taking turns."
    )
    paragraphs: bool = _data(
        False, "Of timed sentences (ActivityNet Captions, DiDeMo): take each video whole, its sentences joined."
    )
    max_words: int = _data(
        32, "Tokens of a caption that the trained CLIP reads, first and last included.", least=2, needs={"videos": ANY}
    )
    max_frames: int = _data(12, "Most frames of a video.", least=1)
    slice_framepos: Literal["0", "1", "2"] = _data(
        "2", "Of more frames than that take 0: the first, 1: the last, 2: some at equal distances."
    )
    feature_framerate: float = _data(1.0, "Frames a second taken of --videos.", above=0, needs={"videos": ANY})
    max_seconds: float = _data(
        0.0,
        "Take frames of the first so many seconds of --videos only; 0 takes all. CLIP4Clip reads 31 of DiDeMo's.",
        least=0,
        needs={"videos": ANY},
    )
    workers: int = _data(2, "Threads that decode --videos.", free=True, least=1, most=1000, needs={"videos": ANY})

    sim_header: str = _model("meanP", "Similarity head.", choices=SIMILARITY_HEADS)
    cross_num_hidden_layers: int = _model(
        CROSS_LAYERS,
        "Layers of the heads seqTransf and tightTransf.",
        least=1,
        most=DEEPEST,
        unless={"sim_header": ("meanP", "seqLSTM")},
    )
    text_encoder: str = _model(
        "all-minilm-l6-v2",
        "Frozen text encoder beside stored features: all-minilm-l6-v2, st:NAME_OR_PATH, starter (the captioner's "
        "word vectors), or a CLIP or SigLIP encoder.",
        unless={"videos": ANY, "init_from": ANY},
    )
    dim: int = _model(
        256,
        "Width of the space where stored features and texts meet; 0: theirs, without projections.",
        least=0,
        most=WIDEST,
        unless={"videos": ANY, "init_from": ANY},
    )
    dropout: float = _model(
        0.1, "Dropout before the projections.", least=0, below=1, unless={"videos": ANY, "init_from": ANY, "dim": 0}
    )
    pretrained_clip_name: str = _model(
        "ViT-B/32",
        "CLIP to train on --videos: a ViT of OpenAI's clip, or a path to its .pt.",
        needs={"videos": ANY},
        unless={"init_from": ANY},
    )
    linear_patch: Literal["2d", "3d"] = _model(
        "2d", "How frames of --videos become patches: each by itself, or with its neighbours.", needs={"videos": ANY}
    )
    freeze_layer_num: int = _model(
        0,
        "CLIP's embeddings and layers below this one stay frozen; -1 trains everything.",
        least=-1,
        needs={"videos": ANY},
    )
    init_from: Path | None = _model(
        None,
        "Begin with the weights of this retrieval model, whatever it was trained on; those that fit, where "
        "--sim_header or --linear_patch is another.",
    )

    epochs: int = _step(5, "Passes over the data.", least=1)
    bs: int = _step(128, "Pairs of text and video in a batch, each of which is negative for the others.", least=2)
    grad_accum: int = _step(1, "Batches a step; negatives stay within a batch.", least=1)
    lr: float = _step(1e-4, "Peak learning rate of everything but CLIP.", above=0, most=100)
    coef_lr: float = _step(1e-3, "CLIP's learning rate is --lr times this.", above=0, most=1e6, needs={"videos": ANY})
    warmup_proportion: float = _step(0.1, "Share of the run in which the rate rises.", least=0, below=1)
    weight_decay: float = _step(0.2, "Weight decay of matrices; biases and norms have none.", least=0)
    clip_norm: float = _step(1.0, "Gradients are scaled down to this norm; 0 is off.", least=0)
    max_minutes: float = _step(
        0.0, "End the run after so many minutes of training, validation not counted; 0 is no limit.", free=True, least=0
    )
    precision: Literal["auto", "fp32", "bf16"] = _step("auto", "auto is bf16 where the device is fast at it.")
    device: str = _step("auto", "auto takes CUDA, then MPS, then the CPU.", free=True)
    seed: int = _step(0, "Every random choice follows from it.", most=LARGEST_SEED)

    prefix: str = _kept("prefix", "Name of the kept checkpoints: OUT/PREFIX-EPOCH.", free=True)
    save_every: int = _kept(
        0, "Keep a checkpoint every so many epochs; 0 keeps best and last only.", free=True, least=0
    )
    eval_every: int = _kept(1, "Validate every so many epochs, and at the end; 0 never.", free=True, least=0)
    track: str | None = _kept(
        None, "Also send the numbers to this tracker, e.g. tensorboard; see docs/runs.md.", free=True
    )
    resume: bool = _kept(False, "Go on from OUT/last, or start if there is none.", once=True)
    dry_run: bool = option(
        False, "Say what the run would take, measured on a few steps, and do nothing.", panel="Run", once=True
    )

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

    model_dir: Path = option(Path("out_retrieval"), "A retrieval model: the folder of a run, or a checkpoint.")
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
    bootstrap: int = option(
        0, "Resamples of the videos that give each figure a 95 % interval; 1000 is usual, 0 gives none.", least=0
    )
    seed: int = option(0, "Seed of --bootstrap.", most=LARGEST_SEED)
    out: Path | None = option(None, "File for the scores; retrieval_SPLIT.json in MODEL_DIR unless given.", made=FILE)
    workers: int = option(2, "Threads that decode videos.", least=1, most=1000)
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.out = self.out or self.model_dir / f"retrieval_{self.split}.json"
