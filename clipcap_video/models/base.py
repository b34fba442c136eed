"""What every captioner offers to training, checkpoints and inference, and the parts that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clipcap_video.decoding.protocol import StepModel
from clipcap_video.encoders.trainable import TrainableEncoder
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.models.loss import summed_cross_entropy
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.products import FrozenMatrix

# The files of a checkpoint that some or all kinds write.
CONFIG, WEIGHTS, TOKENIZER, LANGUAGE_MODEL = "config.json", "model.safetensors", "tokenizer", "language_model"
ENCODER_WEIGHTS = "encoder.safetensors"
STATE = "training_state.pt"


class ModelConfig:
    """Base of the dataclasses that rebuild a captioner, beside its weights and its tokenizer.

    feature_dim: D, width of a frame feature. max_frames: frames of a video that it is given at most.
    """

    feature_dim: Any
    max_frames: Any

    @property
    def outside_model(self) -> tuple[str, str] | None:
        """Name and digest of the frozen language model that a checkpoint does without, if it does."""
        return None

    def shareable(self, training: dict[str, Any]) -> Any:
        """The same without paths of the machine that trained it; `training` has the options, which lose them too."""
        return self


@dataclass(frozen=True)
class TrainingFacts:
    """What a fresh captioner is made to fit. feature_dim: D; max_frames: most of a video; captions: to learn from;
    origins: number of annotation files.

    encoder: to be trained along, from frames that `encoder_weights` (a digest) tells; None where features are stored.
    """

    feature_dim: int
    max_frames: int
    captions: Iterable[str]
    origins: int = 1
    encoder: TrainableEncoder | None = None
    encoder_weights: str | None = None


class CaptionModel(nn.Module, ABC):
    """A network that writes captions of frame features.

    kind: its name in checkpoints and on the command line. config: a dataclass, all that rebuilds it beside weights
    and tokenizer. tokenizer: a `transformers` tokenizer with an end-of-text token.
    """

    kind: ClassVar[str]
    config: Any
    tokenizer: Any
    # Its output layer once more, ready for products, where it is frozen and `keep_in` has made that.
    frozen_output: FrozenMatrix | None = None

    @classmethod
    @abstractmethod
    def build(cls, config: Any, facts: TrainingFacts) -> CaptionModel:
        """A fresh one. config: a TrainConfig, or whatever has the options of this kind, `dropout` and `seed`."""

    @classmethod
    @abstractmethod
    def read_config(cls, raw: dict[str, Any]) -> Any:
        """Its config from the JSON object in a checkpoint. Raises TypeError for one that does not fit."""

    @classmethod
    @abstractmethod
    def load(cls, config: Any, checkpoint: Path, language_model: str | None) -> CaptionModel:
        """The one in a checkpoint, but for the weights in `model.safetensors`.

        language_model: where to find a frozen language model, if not under the name that the checkpoint has.
        Raises ClipcapError when a part is missing or does not fit.
        """

    @classmethod
    def outline(cls, config: Any, checkpoint: Path) -> nn.Module:
        """Modules that hold, under their names, what weights of the checkpoint will fill; made without storage.

        They are held against the weights' shapes before any are read; those left out are only when they are filled.
        """
        return nn.Module()

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes what a checkpoint holds of it beside config and weights. dtype: of further weights."""
        self.tokenizer.save_pretrained(folder / TOKENIZER)

    @property
    def feature_dim(self) -> int:
        """D, the width of the frame features that it reads."""
        return self.config.feature_dim

    @property
    def max_frames(self) -> int:
        """Frames of a video that it is given at most."""
        return self.config.max_frames

    @property
    def vocabulary_size(self) -> int:
        """V, the width of its logits."""
        return self.output_layer()[0].shape[0]

    @abstractmethod
    def forward(self, batch: PackedCaptions, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats over all labels of the batch, each times its weight where it has one."""

    @abstractmethod
    def start(self, features: Tensor, mask: Tensor, max_tokens: int) -> StepModel:
        """State for decoding captions of up to `max_tokens` tokens; see decoding.protocol.StepModel.

        features: [B, T, D]; mask: [B, T] bool.
        """

    @abstractmethod
    def output_layer(self) -> tuple[Tensor, Tensor | None]:
        """What makes logits of hidden states: weight [V, E], and bias [V], -inf where a token is never written."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Its architecture, in words for a person."""

    def architecture(self) -> dict[str, Any]:
        """Its choices under the names of the options that made them, where inference knows those options too."""
        return {}

    def keep_in(self, precision: str, device: torch.device, frozen_only: bool = False) -> None:
        """Readies its language model, if it has one, for "fp32" or "bf16" on a device; with `frozen_only` unless it is
        trained. It is not saved after that."""

    def backbone(self) -> nn.Module | None:
        """The pre-trained part, which learns at a rate of its own."""
        return None

    def omitted_weights(self) -> Iterable[str]:
        """Names of weights that a checkpoint does not hold in `model.safetensors`."""
        return ()

    @property
    def encoder_weights_before(self) -> str | None:
        """Digest of the weights that the encoder had before it was trained along; None where it was not."""
        return None

    def fingerprint(self, base: Fingerprint | None) -> Fingerprint | None:
        """How the features are made that it reads; `base` says how those in the store were."""
        return base

    def check_length(self, max_tokens: int) -> None:
        """Raises ClipcapError when captions of `max_tokens` tokens are too long for it."""
        return None

    def extend(self, config: Any) -> None:
        """Adds what a run that starts from this captioner may add to it: options that are `added`."""
        return None

    def remembered(self, features: Tensor, mask: Tensor) -> list[list[str]]:
        """Captions of people that may be said of each of B videos; none unless it keeps any.

        features: [B, T, D]; mask: [B, T] bool.
        """
        return [[] for _ in mask]

    def frame_features(self, features: Tensor, mask: Tensor) -> Tensor:
        """What a batch holds -> frame features [B, T, D]; they are the same unless frames come as pixels."""
        return features

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def stop_tokens(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    @property
    def whole_captions(self) -> bool:
        """Whether the model learned where captions end, so that decoding may insist on an end."""
        return True

    @property
    def length_penalty(self) -> float:
        """The length penalty that beams are ranked by unless told otherwise.

        0.6 was chosen on MSR-VTT validation captions (docs/quality.md); the ClipCap programs rank by the mean.
        """
        return 0.6 if self.whole_captions else 1.0

    @property
    def ignored_label(self) -> int | None:
        """A token id that is read but never predicted in training."""
        return None

    def encode_caption(self, caption: str, max_tokens: int) -> list[int]:
        """Tokens of a caption, with the end token behind them where captions have one.

        One of more than `max_tokens` is cut to that and has no end, for it does not end there.
        """
        return self.encode_captions([caption], max_tokens)[0]

    def encode_captions(self, captions: list[str], max_tokens: int) -> list[list[int]]:
        """The same of many captions, a hundred thousand in a second."""
        end = [self.tokenizer.eos_token_id] if self.whole_captions else []
        return [
            tokens[:max_tokens] if len(tokens) > max_tokens else [*tokens, *end]
            for tokens in self._encode_all(captions)
        ]

    def _encode_all(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # The first text also makes the tokenizer forget any padding and truncation of its own.
        first = self.tokenizer(texts[:1], add_special_tokens=False)["input_ids"]
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [*first, *(self._encode(text) for text in texts[1:])]
        # Without the library's own wrapping, which takes twice as long as the tokenizer.
        return [*first, *(encoding.ids for encoding in backend.encode_batch_fast(texts[1:], add_special_tokens=False))]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode_tokens(self, tokens: list[int], stop_token: int | None = None) -> str:
        """The text of a caption's tokens, which `stop_token` followed if it is given."""
        return " ".join(self.tokenizer.decode(tokens, skip_special_tokens=True).split())

    def _mean_loss(self, hidden: Tensor, row_of_label: Tensor, batch: PackedCaptions, label_smoothing: float) -> Tensor:
        """Mean cross-entropy of the batch's N labels, predicted at rows `row_of_label` [N] of hidden [R, E]."""
        return self._label_loss(hidden, row_of_label, batch, label_smoothing) / len(batch.labels)

    def _label_loss(self, hidden: Tensor, row_of_label: Tensor, batch: PackedCaptions, smoothing: float) -> Tensor:
        """The same, summed."""
        labels, worth = batch.labels, batch.label_weight
        layer = self.output_layer()
        return summed_cross_entropy(hidden, *layer, row_of_label, labels, worth, smoothing, self.frozen_output)
