"""What rebuilds a prefix captioner, beside its weights and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipcap_video.models.base import ModelConfig
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prompt import prompt_lengths


@dataclass(frozen=True)
class CaptionerConfig(ModelConfig):
    """What rebuilds a captioner, beside its weights and its tokenizer.

    language_model: the name it was loaded by; needed again only when `only_prefix`.
    language_model_digest: tells whether the model found under that name is still the same.
    only_prefix: the language model is frozen and stays out of the checkpoint.
    stop_text: how captions end. None: in the end-of-text token, and they are whole. A text, "." in the ClipCap
        programs, is their convention: captions are trained on without an end token and with token id 0, their
        padding, never a label; decoding stops behind the first token of the text, which stays in the caption, and a
        caption that does not come to it breaks off.
    lora_rank: the language model is frozen but for low-rank adapters of this rank (Hu et al., arXiv 2106.09685), which
        alone are in the checkpoint; 0 is none.
    origins: behind the prefix stands a learned token that tells which of so many annotation files a caption is of;
        captions are written as those of the first. 0 is no such token.
    predicted_words, memory: so many words and captions stand between the two, as a Prompter chooses them.
    """

    mapping: MappingConfig
    language_model: str
    language_model_digest: str
    only_prefix: bool
    stop_text: str | None = None
    lora_rank: int = 0
    origins: int = 0
    predicted_words: int = 0
    memory: int = 0

    @property
    def prompt_length(self) -> int:
        """H, tokens of the prompt."""
        return sum(prompt_lengths(self.predicted_words, self.memory))

    @property
    def prefix_length(self) -> int:
        """P, embeddings that stand before a caption."""
        return self.mapping.prefix_length + self.prompt_length + bool(self.origins)

    @property
    def frozen_decoder(self) -> bool:
        """Whether the checkpoint does without the language model's own weights."""
        return self.only_prefix or self.lora_rank > 0

    @property
    def feature_dim(self) -> int:
        return self.mapping.feature_dim

    @property
    def max_frames(self) -> int:
        return self.mapping.max_frames

    @property
    def outside_model(self) -> tuple[str, str] | None:
        return (self.language_model, self.language_model_digest) if self.frozen_decoder else None

    def shareable(self, training: dict[str, Any]) -> CaptionerConfig:
        if self.frozen_decoder:
            return self
        # Only a name from here on: the weights are in the checkpoint.
        training["lm"] = Path(self.language_model).name
        return replace(self, language_model=training["lm"])
