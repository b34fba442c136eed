"""The options of each kind of captioner. Free of torch, for the command line to build flags on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from clipcap_video.errors import ClipcapError
from clipcap_video.models.mapping import MAPPING_NETWORKS
from clipcap_video.runs.options import ANY, DEEPEST, WIDEST, Part, absolute, load_object, option

if TYPE_CHECKING:
    from clipcap_video.models.base import CaptionModel


@dataclass
class ModelOptions(Part):
    """Options of one kind of captioner.

    captioner: the subclass of CaptionModel, or "module:name" of it.
    """

    captioner: ClassVar[Any]

    @classmethod
    def captioner_class(cls) -> type[CaptionModel]:
        captioner: type[CaptionModel] = load_object(cls.captioner)
        return captioner

    @classmethod
    def imply(cls, given: dict[str, Any]) -> None:
        """Adds to the options that were given those that follow from them."""

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """What options that are unset become with this kind, where that is not their own default."""
        return {}

    @property
    def backbone_lr(self) -> float:
        """Peak learning rate of the part that is pre-trained, where there is one."""
        return 0.0

    def check(self, config: Any) -> None:
        """Raises ClipcapError for what makes no sense together. config: the whole TrainConfig."""


_of_prefix = partial(option, panel="With --model prefix", needs={"model": "prefix"})
_PROMPTLESS = {"recipe": "reference", "text_only": True, "objective": "scst"}

# The MSR-VTT ClipCap program's own constants. Its warm-up is longer than the run of its README.
REFERENCE_RECIPE: dict[str, Any] = {
    "lr": 2e-5, "lm_lr": 2e-5, "warmup_steps": 5000, "weight_decay": 0.0, "clip_norm": 0.0, "dropout": 0.0,
    "captions_per_video": 1,
}  # fmt: skip


@dataclass
class PrefixOptions(ModelOptions):
    """A mapping network in front of a language model."""

    captioner = "clipcap_video.models.prefix:PrefixCaptioner"

    mapping_type: str = _of_prefix("transformer", "Mapping network.", fixed=True, choices=MAPPING_NETWORKS)
    cross: bool = _of_prefix(
        False, "Prefix constants attend to the frames: the same as --mapping_type cross.", free=True
    )
    only_prefix: bool = _of_prefix(
        False, "Train the mapping network alone; the language model stays frozen and out of the checkpoint.", fixed=True
    )
    lora_rank: int = _of_prefix(
        0,
        "Fine-tune low-rank adapters of this rank in place of the language model itself, at --lm_lr; 0 is off. Needs "
        "the extra lora.",
        fixed=True,
        least=0,
        most=WIDEST,
        unless={"only_prefix": True},
    )
    text_only: bool = _of_prefix(
        False,
        "Learn from captions without their videos, in a space where both meet: --features are those of an encoder with "
        "a text side (CLIP, SigLIP, retrieval:FOLDER), of any videos, and --bs counts captions.",
        fixed=True,
        unless={"recipe": "reference", "objective": ("contrastive", "scst")},
    )
    text_noise: float = _of_prefix(
        0.1,
        "Standard deviation of the noise in each number of a caption's embedding, which has unit length.",
        fixed=True,
        most=10,
        needs={"model": "prefix", "text_only": True},
    )
    text_memory: int = _of_prefix(
        0,
        "Captions that are kept to tell videos by: at inference a video is the mean of those near it. 0 is none.",
        fixed=True,
        needs={"model": "prefix", "text_only": True},
    )
    prefix_length: int = _of_prefix(
        10, "Language-model embeddings that stand before the caption.", fixed=True, least=1, most=10_000
    )
    num_layers: int = _of_prefix(
        8, "Layers of the mapping transformer.", fixed=True, least=1, most=DEEPEST, unless={"mapping_type": "mlp"}
    )
    normalize_prefix: bool = _of_prefix(False, "Divide each frame feature by its L2 norm.", fixed=True)
    origin_token: bool = _of_prefix(
        False,
        "Tell the model by a learned token which of several annotation files a caption is of. It writes captions as "
        "those of the first, so that the others can teach it what they show without changing how it writes.",
        fixed=True,
    )
    predicted_words: int = _of_prefix(
        0,
        "So many words that people are expected to say of the video stand behind the prefix. The network that expects "
        "them is fitted before the first step; for training videos, others that did not see the video. 0 is none.",
        fixed=True,
        added=True,
        most=1000,
        unless=_PROMPTLESS,
    )
    memory: int = _of_prefix(
        0,
        "So many captions of other training videos, those of which such a network expects most CIDEr, stand behind the "
        "prefix. The training captions are kept in the checkpoint for that. 0 is none.",
        fixed=True,
        added=True,
        most=1000,
        unless=_PROMPTLESS,
    )
    lm: str = _of_prefix(
        "gpt2",
        "Language model: a Hugging Face name, a local folder, a GGUF file, or smollm2-135m from its package.",
        fixed=True,
    )
    recipe: Literal["ours", "reference"] = _of_prefix(
        "ours",
        "reference trains as the MSR-VTT ClipCap program: the first caption of each video, no end token, its mapping "
        "networks and its optimiser; options left at their defaults become that program's.",
        fixed=True,
    )
    lm_lr: float = _of_prefix(
        2e-5,
        "Peak learning rate of the language model, where it is fine-tuned.",
        above=0,
        most=100,
        unless={"only_prefix": True},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lm = absolute(self.lm) or self.lm

    def check(self, config: Any) -> None:
        if self.origin_token and config.init_from is None and len(config.caption) < 2:
            raise ClipcapError(
                "--origin_token tells several annotation files apart, and there is one; leave it out or give more "
                "--annotations"
            )
        if config.objective == "scst" and (self.predicted_words or self.memory):
            raise ClipcapError(
                f"{config.init_from} reads a prompt of words, with which --objective scst cannot sample training "
                "videos; start from a captioner without --predicted_words and --memory"
            )

    @classmethod
    def imply(cls, given: dict[str, Any]) -> None:
        # --mapping_type transformer --cross is how the MSR-VTT ClipCap program spells cross.
        if given.get("cross"):
            given["mapping_type"] = "cross"

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return REFERENCE_RECIPE if given.get("recipe") == "reference" else {}

    @property
    def backbone_lr(self) -> float:
        return self.lm_lr


_of_lstm = partial(option, panel="With --model lstm", needs={"model": "lstm"})
_of_encoder = partial(
    option, panel="With --model lstm --train_encoder all", needs={"model": "lstm", "train_encoder": "all"}
)


@dataclass
class LstmOptions(ModelOptions):
    """A recurrent network that reads the frames and another that writes the words."""

    captioner = "clipcap_video.models.recurrent:RecurrentCaptioner"

    cell: Literal["lstm", "gru"] = _of_lstm("lstm", "Kind of the recurrent layers.", fixed=True)
    attention: Literal["none", "additive"] = _of_lstm(
        "additive",
        "additive: before each word the decoder looks at the frames (Bahdanau). none: it knows what the "
        "encoder's last state holds.",
        fixed=True,
    )
    rnn_layers: int = _of_lstm(
        1, "Recurrent layers of the encoder, and of the decoder.", fixed=True, least=1, most=DEEPEST
    )
    rnn_width: int = _of_lstm(512, "Width of the recurrent layers.", fixed=True, least=1, most=WIDEST)
    word_width: int = _of_lstm(256, "Width of a word's embedding.", fixed=True, least=1, most=WIDEST)
    embeddings: Literal["tied", "separate"] = _of_lstm(
        "tied", "Whether the words that are read and those that are written share their embeddings.", fixed=True
    )
    min_count: int = _of_lstm(
        3,
        "Words rarer than this in the training captions are read as <unk>, and never written.",
        fixed=True,
        least=1,
        unless={"tokenizer": ANY},
    )
    tokenizer: str | None = _of_lstm(
        None,
        "Subwords instead of a vocabulary of words: the tokenizer of a Hugging Face name or of a local folder.",
        fixed=True,
    )
    train_encoder: Literal["none", "head", "all"] = _of_lstm(
        "head",
        "none: the features are read as they are. head: a linear layer over them, in the place of the classifier. all: "
        "that, and the image encoder itself, from the frames of --videos.",
        fixed=True,
    )
    head_width: int = _of_lstm(
        512, "Width of that linear layer.", fixed=True, least=1, most=WIDEST, unless={"train_encoder": "none"}
    )

    videos: list[Path] | None = _of_encoder(
        None,
        "The videos whose features are in --features, which say the encoder and the frames: a folder, a video, or a "
        "text file of paths. May be given several times.",
        free=True,
    )
    freeze_until: Literal["stem", "layer1", "layer2", "layer3", "layer4"] = _of_encoder(
        "layer4", "The first stage of the encoder that is trained; those before it are frozen."
    )
    encoder_lr: float = _of_encoder(2e-5, "Peak learning rate of the encoder.", above=0, most=100)
    encoder_weights: Path | None = _of_encoder(
        None, "A file of weights for the encoder, where its own cannot be downloaded.", free=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokenizer = absolute(self.tokenizer)

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"lr": 2e-3, "dropout": 0.3}  # all its weights start from nothing

    @property
    def backbone_lr(self) -> float:
        return self.encoder_lr

    def check(self, config: Any) -> None:
        if self.train_encoder != "all":
            return
        if config.init_from is not None:
            raise ClipcapError("--init_from starts from a captioner of stored features, not of --train_encoder all")
        if not self.videos:
            raise ClipcapError("--train_encoder all trains on frames; give the videos with --videos")
