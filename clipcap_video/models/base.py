"""What every captioner offers to training, checkpoints and inference, and the parts that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipcap_video.decoding.protocol import StepModel
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.models.packing import PackedCaptions

LOGITS_AT_ONCE = 2**26  # 256 MiB in float32


class CaptionModel(nn.Module, ABC):
    """A network that writes captions of frame features.

    kind: its name in checkpoints and on the command line. config: a dataclass, all that rebuilds it beside weights
    and tokenizer. tokenizer: a `transformers` tokenizer with an end-of-text token.
    """

    kind: ClassVar[str]
    config: Any
    tokenizer: Any

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """D, the width of the frame features that it reads."""

    @property
    @abstractmethod
    def max_frames(self) -> int:
        """Frames of a video that it is given at most."""

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """V, the width of its logits."""

    @abstractmethod
    def forward(self, batch: PackedCaptions, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats over all labels of the batch, each times its weight where it has one."""

    @abstractmethod
    def start(self, features: Tensor, mask: Tensor, max_tokens: int) -> StepModel:
        """State for decoding captions of up to `max_tokens` tokens; see decoding.protocol.StepModel.

        features: [B, T, D]; mask: [B, T] bool.
        """

    @abstractmethod
    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token: hidden [..., E] -> float32 [..., V]; -inf where a token is never written."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Its architecture, in words for a person."""

    def backbone(self) -> nn.Module | None:
        """The pre-trained part, which learns at a rate of its own."""
        return None

    def clamp_scale(self) -> None:
        """Mends what an optimiser step may have moved too far."""

    def stays_out(self) -> Iterable[str]:
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
        return [*first, *(found.ids for found in backend.encode_batch_fast(texts[1:], add_special_tokens=False))]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode_tokens(self, tokens: list[int], stop_token: int | None = None) -> str:
        """The text of a caption's tokens, which `stop_token` followed if it is given."""
        return " ".join(self.tokenizer.decode(tokens, skip_special_tokens=True).split())

    def _mean_loss(self, hidden: Tensor, row_of_label: Tensor, batch: PackedCaptions, label_smoothing: float) -> Tensor:
        """Mean cross-entropy of the batch's N labels, predicted at rows `row_of_label` [N] of hidden [R, E]."""
        labels, weights = batch.labels, batch.label_weight
        size = max(1, LOGITS_AT_ONCE // self.vocabulary_size)
        if len(hidden) <= size:
            return self._summed_loss(hidden, row_of_label, labels, weights, label_smoothing) / len(labels)
        # A batch of hundreds of captions has gigabytes of logits. Piece by piece, and made again for the gradient.
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), size):
            inside = (row_of_label >= start) & (row_of_label < start + size)
            own = None if weights is None else weights[inside]
            piece = (hidden[start : start + size], row_of_label[inside] - start, labels[inside], own)
            total = total + checkpoint(self._summed_loss, *piece, label_smoothing, use_reentrant=False)
        return total / len(labels)

    def _summed_loss(
        self, hidden: Tensor, row_of_label: Tensor, labels: Tensor, weights: Tensor | None, label_smoothing: float
    ) -> Tensor:
        """Summed cross-entropy, times weights [N], of labels [N] predicted at rows [N] of hidden [R, E]."""
        log_probs = F.log_softmax(self._logits(hidden), dim=-1)  # [R, V]
        loss = -log_probs[row_of_label, labels]  # [N]
        if label_smoothing > 0:
            uniform = -self._mean_log_probs(log_probs)[row_of_label]
            loss = (1 - label_smoothing) * loss + label_smoothing * uniform
        return (loss if weights is None else loss * weights).sum()

    def _mean_log_probs(self, log_probs: Tensor) -> Tensor:
        """Mean over the tokens that can be written: [R, V] -> [R]."""
        return log_probs.mean(dim=-1)
