"""The options of a training run: one dataclass is the command line, the record in the checkpoint and the library."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from clipcap_video.errors import ClipcapError
from clipcap_video.runs.defaults import default_annotations, default_features
from clipcap_video.runs.options import RunConfig, check_least, check_prefix, option

# The MSR-VTT ClipCap program's own constants. Its warm-up is longer than the run of its README.
REFERENCE_RECIPE: dict[str, Any] = {
    "lr": 2e-5, "lm_lr": 2e-5, "warmup_steps": 5000, "weight_decay": 0.0, "clip_norm": 0.0, "dropout": 0.0,
    "captions_per_video": 1,
}  # fmt: skip

# Defaults of --model lstm, whose weights all start from nothing.
LSTM_DEFAULTS: dict[str, Any] = {"lr": 2e-3, "dropout": 0.3}

# Options that say something about one model alone, or one way of training it.
PREFIX_OPTIONS = (
    "mapping_type", "cross", "only_prefix", "lora_rank", "prefix_length", "num_layers", "normalize_prefix", "lm",
    "lm_lr", "recipe", "retrieval_loss",
)  # fmt: skip
LSTM_OPTIONS = (
    "cell", "attention", "rnn_layers", "rnn_width", "word_width", "embeddings", "min_count", "tokenizer",
    "train_encoder", "head_width",
)  # fmt: skip
ENCODER_OPTIONS = ("videos", "encoder_weights", "freeze_until", "encoder_lr")
# What a checkpoint fixes for the runs that start from it.
MODEL_OPTIONS = (
    "model", "mapping_type", "only_prefix", "lora_rank", "prefix_length", "prefix_length_clip", "num_layers", "dropout",
    "is_rn", "normalize_prefix", "lm", "recipe", *LSTM_OPTIONS,
)  # fmt: skip
PREFIX, LSTM, ENCODER = "With --model prefix", "With --model lstm", "With --model lstm --train_encoder all"


@dataclass
class TrainConfig(RunConfig):
    """Options of `train_vtt.py`; names and meanings follow the ClipCap programs where they have them."""

    data: Path | None = option(
        None,
        "Features: the folder from extract_features.py, or an .hdf5 file. Unless given, "
        "MSRVTT_TRNVAL_CLIP_FEATURES.hdf5 where it is in the working folder or its CV_Project_Dataset, else features.",
        panel="Data",
    )
    caption: list[Path] | None = option(
        None,
        "Annotations: MSR-VTT json, a file of another dataset (docs/datasets.md), or JSONL or CSV of video, "
        "caption[, split]. May be given several times. "
        "Unless given, train_val_videodatainfo.json, looked for likewise, else videodatainfo.json.",
        panel="Data",
    )
    paragraphs: bool = option(
        False,
        "Of timed sentences (ActivityNet Captions, DiDeMo): take each video whole, its sentences joined, and not each "
        "segment by itself.",
        panel="Data",
    )
    out_dir: Path = option(Path("out"), "Where the checkpoints and metrics.jsonl go.", panel="Data")
    train_split: str = option("train", "Split to train on.", panel="Data")
    eval_split: str = option("validate", "Split to validate on; skipped when the annotations have none.", panel="Data")
    captions_per_video: int = option(
        0, "Captions of each video that an epoch trains on, taking turns; 0 is all of them.", panel="Data"
    )
    max_caption_tokens: int = option(40, "Longer captions are cut to this many tokens.", panel="Data")
    raw_captions: bool = option(
        False,
        "Train on captions as they are. Unless given, those that have their verb twice, as some of MSR-VTT, lose the "
        'first: "there is a man is talking" is "a man is talking".',
        panel="Data",
    )

    model: Literal["prefix", "lstm"] = option(
        "prefix",
        "prefix: a mapping network in front of a language model. lstm: a recurrent network that reads the frames and "
        "another that writes the words, trained from scratch; --lr is 2e-3 and --dropout 0.3 unless given.",
        panel="Model",
    )
    prefix_length_clip: int = option(
        0, "Most frames of a video that are used, evenly spread; 0 is as many as the data has.", panel="Model"
    )
    dropout: float = option(0.1, "Dropout in what is trained from scratch.", panel="Model")
    is_rn: bool = option(
        False,
        "Require RN50x4's 640-wide features. The width is read from the data in any case.",
        panel="Model",
    )

    mapping_type: Literal["mlp", "transformer", "cross"] = option("transformer", "Mapping network.", panel=PREFIX)
    cross: bool = option(
        False, "Prefix constants attend to the frames: the same as --mapping_type cross.", panel=PREFIX
    )
    only_prefix: bool = option(
        False,
        "Train the mapping network alone; the language model stays frozen and out of the checkpoint.",
        panel=PREFIX,
    )
    lora_rank: int = option(
        0,
        "Fine-tune low-rank adapters of this rank in place of the language model itself, at --lm_lr; 0 is off. Needs "
        "the extra lora.",
        panel=PREFIX,
    )
    prefix_length: int = option(10, "Language-model embeddings that stand before the caption.", panel=PREFIX)
    num_layers: int = option(8, "Layers of the mapping transformer.", panel=PREFIX)
    normalize_prefix: bool = option(False, "Divide each frame feature by its L2 norm.", panel=PREFIX)
    lm: str = option(
        "gpt2",
        "Language model: a Hugging Face name, a local folder, a GGUF file, or smollm2-135m from its package.",
        panel=PREFIX,
    )

    cell: Literal["lstm", "gru"] = option("lstm", "Kind of the recurrent layers.", panel=LSTM)
    attention: Literal["none", "additive"] = option(
        "additive",
        "additive: before each word the decoder looks at the frames (Bahdanau). none: it knows what the "
        "encoder's last state holds.",
        panel=LSTM,
    )
    rnn_layers: int = option(1, "Recurrent layers of the encoder, and of the decoder.", panel=LSTM)
    rnn_width: int = option(512, "Width of the recurrent layers.", panel=LSTM)
    word_width: int = option(256, "Width of a word's embedding.", panel=LSTM)
    embeddings: Literal["tied", "separate"] = option(
        "tied", "Whether the words that are read and those that are written share their embeddings.", panel=LSTM
    )
    min_count: int = option(
        3, "Words rarer than this in the training captions are read as <unk>, and never written.", panel=LSTM
    )
    tokenizer: str | None = option(
        None,
        "Subwords instead of a vocabulary of words: the tokenizer of a Hugging Face name or of a local folder.",
        panel=LSTM,
    )
    train_encoder: Literal["none", "head", "all"] = option(
        "head",
        "none: the features are read as they are. head: a linear layer over them, in the place of the classifier. all: "
        "that, and the image encoder itself, from the frames of --videos.",
        panel=LSTM,
    )
    head_width: int = option(512, "Width of that linear layer.", panel=LSTM)

    videos: list[Path] | None = option(
        None,
        "The videos whose features are in --data, which say the encoder and the frames: a folder, a video, or a text "
        "file of paths. May be given several times.",
        panel=ENCODER,
    )
    freeze_until: Literal["stem", "layer1", "layer2", "layer3", "layer4"] = option(
        "layer4", "The first stage of the encoder that is trained; those before it are frozen.", panel=ENCODER
    )
    encoder_lr: float = option(2e-5, "Peak learning rate of the encoder.", panel=ENCODER)
    encoder_weights: Path | None = option(
        None, "A file of weights for the encoder, where its own cannot be downloaded.", panel=ENCODER
    )

    recipe: Literal["ours", "reference"] = option(
        "ours",
        "reference trains as the MSR-VTT ClipCap program: the first caption of each video, no end token, its mapping "
        "networks and its optimiser; options left at their defaults become that program's.",
        panel="Optimisation",
    )
    objective: Literal["xe", "scst"] = option(
        "xe",
        "xe: cross-entropy with the captions. scst: self-critical, samples are rewarded by their CIDEr; for a model "
        "that xe trained before, see --init_from.",
        panel="Optimisation",
    )
    init_from: Path | None = option(
        None,
        "Start from the weights of this run or checkpoint; the options of the model are taken from it.",
        panel="Optimisation",
    )
    samples: int = option(5, "scst: captions sampled for each video of a batch.", panel="Optimisation")
    sample_top_p: float = option(
        0.9,
        "scst: sample from the fewest likeliest tokens whose probabilities sum to this; 1 is from all.",
        panel="Optimisation",
    )
    baseline: Literal["mean", "greedy"] = option(
        "mean",
        "scst: what a sample must beat, the mean reward of the video's other samples or that of the greedy caption.",
        panel="Optimisation",
    )
    average: float = option(
        0.0,
        "Validate and keep a moving average of the weights; each step this share of it stays, e.g. 0.999. 0 is off.",
        panel="Optimisation",
    )
    epochs: int = option(10, "Passes over the videos.", panel="Optimisation")
    bs: int = option(40, "Videos in a batch, each with all its captions of the epoch.", panel="Optimisation")
    grad_accum: int = option(1, "Batches a step.", panel="Optimisation")
    lr: float = option(1e-4, "Peak learning rate of what is trained from scratch.", panel="Optimisation")
    lm_lr: float = option(
        2e-5, "Peak learning rate of the language model, where it is fine-tuned.", panel="Optimisation"
    )
    warmup_steps: int = option(
        -1,
        "Steps of linear warm-up, at most the whole run; -1 is a twentieth of the run.",
        panel="Optimisation",
    )
    weight_decay: float = option(0.01, "Weight decay of matrices; biases and norms have none.", panel="Optimisation")
    label_smoothing: float = option(0.0, "Share of the target spread over the vocabulary.", panel="Optimisation")
    retrieval_loss: float = option(
        0.0,
        "Weight of a contrastive loss beside that of the captions: the mean of a video's prefix and the embeddings of "
        "its captions find each other in the batch. 0 is off.",
        panel="Optimisation",
    )
    text_encoder: str = option(
        "all-minilm-l6-v2",
        "The frozen text encoder of --retrieval_loss: all-minilm-l6-v2, st:NAME_OR_PATH, or a CLIP or SigLIP encoder.",
        panel="Optimisation",
    )
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
        1, "Keep a checkpoint every so many epochs; 0 keeps best and last only.", panel="Checkpoints"
    )
    eval_every: int = option(1, "Validate every so many epochs, and at the end; 0 never.", panel="Checkpoints")
    eval_beam_size: int = option(5, "Beams of the captions that validation scores; 1 is greedy.", panel="Checkpoints")
    resume: bool = option(False, "Go on from OUT_DIR/last, or start if there is none.", panel="Checkpoints", once=True)

    track: str | None = option(
        None, "Also send losses, rates and scores to this tracker, e.g. tensorboard (in OUT_DIR/tracking).", panel="Run"
    )
    dry_run: bool = option(
        False, "Say what the run would take, measured on a few steps, and do nothing.", panel="Run", once=True
    )

    def __post_init__(self) -> None:
        given = [self.caption] if isinstance(self.caption, str | Path) else self.caption
        self.caption = [Path(path) for path in given or [default_annotations()]]
        self.data, self.out_dir = Path(self.data or default_features()), Path(self.out_dir)
        if Path(self.lm).exists():
            self.lm = str(Path(self.lm).resolve())
        if self.tokenizer is not None and Path(self.tokenizer).exists():
            self.tokenizer = str(Path(self.tokenizer).resolve())
        if self.init_from is not None:
            self.init_from = Path(self.init_from)
            self._take_model_from(self.init_from)
        self._check_options_apply()
        if self.cross:
            self.mapping_type = "cross"
        own = REFERENCE_RECIPE if self.recipe == "reference" else LSTM_DEFAULTS if self.model == "lstm" else {}
        for name, value in own.items():
            if not self._given(name):
                setattr(self, name, value)
        check_least(
            self,
            epochs=1, bs=1, grad_accum=1, prefix_length=1, num_layers=1, max_caption_tokens=1, captions_per_video=0,
            prefix_length_clip=0, save_every=0, eval_every=0, warmup_steps=-1, weight_decay=0, seed=0, clip_norm=0,
            max_minutes=0, retrieval_loss=0, eval_beam_size=1, lora_rank=0,
            samples=2 if self.baseline == "mean" else 1,
            min_count=1, rnn_layers=1, rnn_width=1, word_width=1, head_width=1,
        )  # fmt: skip
        for name in ("lr", "lm_lr", "encoder_lr"):
            if not getattr(self, name) > 0:
                raise ClipcapError(f"--{name} must be above 0, not {getattr(self, name)}")
        for name in ("label_smoothing", "dropout", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ClipcapError(f"--{name} must lie in [0, 1), not {getattr(self, name)}")
        if not 0 < self.sample_top_p <= 1:
            raise ClipcapError(f"--sample_top_p must lie in (0, 1], not {self.sample_top_p}")
        if self.only_prefix and self.lora_rank:
            raise ClipcapError("--only_prefix freezes the language model and --lora_rank adapts it; choose one")
        if self.objective == "scst":
            if self.init_from is None:
                raise ClipcapError(
                    "--objective scst goes on from a trained captioner; give it with --init_from, after "
                    "--objective xe has trained one"
                )
            if self.reference:
                raise ClipcapError(
                    f"{self.init_from} was trained without an end token, which --objective scst rewards; start from "
                    "a run of --recipe ours"
                )
            for name in ("label_smoothing", "captions_per_video", "retrieval_loss"):
                if getattr(self, name):
                    raise ClipcapError(f"--{name} has no meaning with --objective scst; leave it out")
        check_prefix(self.prefix)

    def _given(self, name: str) -> bool:
        """Whether an option differs from its default."""
        return getattr(self, name) != next(item.default for item in fields(self) if item.name == name)

    def _check_options_apply(self) -> None:
        """Refuses options that would be without effect."""
        self.videos = [Path(path) for path in self.videos or []] or None
        kinds: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
            ("--model prefix", self.model == "prefix", PREFIX_OPTIONS),
            ("--model lstm", self.model == "lstm", LSTM_OPTIONS),
            ("--train_encoder all", self.train_encoder == "all", ENCODER_OPTIONS),
        )
        for kind, chosen, names in kinds:
            for name in () if chosen else names:
                if self._given(name):
                    raise ClipcapError(f"--{name} belongs to {kind}; leave it out, or give that too")
        if self.train_encoder == "all" and self.init_from is not None:
            raise ClipcapError("--init_from goes on from a captioner of stored features, not of --train_encoder all")
        if self.train_encoder == "all" and self.videos is None:
            raise ClipcapError("--train_encoder all trains on frames; give the videos with --videos")
        if self.tokenizer is not None and self._given("min_count"):
            raise ClipcapError(
                "--min_count is of a vocabulary of words, but --tokenizer brings its own; give one of them"
            )
        if self.train_encoder == "none" and self._given("head_width"):
            raise ClipcapError("--head_width is of the layer that --train_encoder none leaves out; give one of them")

    def _take_model_from(self, run: Path) -> None:
        """Sets the options that describe the model to those of the checkpoint that training starts from."""
        from clipcap_video.models.checkpoint import find_checkpoint, read_config

        _, info = read_config(find_checkpoint(run))
        defaults = {item.name: item.default for item in fields(self)}
        for name in MODEL_OPTIONS:
            saved, mine = info.training.get(name, defaults[name]), getattr(self, name)
            if mine not in (defaults[name], saved):
                raise ClipcapError(
                    f"--{name} {mine} differs from the {saved} of {run}, which --init_from starts from; leave it out"
                )
            setattr(self, name, saved)

    @property
    def backbone_lr(self) -> float:
        """Peak learning rate of the part that is pre-trained."""
        return self.encoder_lr if self.model == "lstm" else self.lm_lr

    @property
    def reference(self) -> bool:
        """Whether the run follows the MSR-VTT ClipCap program."""
        return self.recipe == "reference"
