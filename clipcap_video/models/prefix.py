"""Prefix captioners as a kind of captioner: built fresh, extended, saved and loaded; see `prefix_network.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipcap_video.consensus.memory import CaptionMemory
from clipcap_video.consensus.network import ConsensusRanker
from clipcap_video.errors import ClipcapError
from clipcap_video.models.adapters import is_adapter_weight
from clipcap_video.models.base import CONFIG, LANGUAGE_MODEL, TOKENIZER, TrainingFacts
from clipcap_video.models.language_model import (
    digest_language_model,
    keep_in,
    language_model_from_config,
    load_language_model,
    load_tokenizer,
    outline_of_saved,
)
from clipcap_video.models.mapping import build_mapping
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix_config import CaptionerConfig
from clipcap_video.models.prefix_network import PrefixNetwork
from clipcap_video.models.prompt import Prompter, read_prompter

STOP_TEXT = "."  # of the ClipCap programs


class PrefixCaptioner(PrefixNetwork):
    """A PrefixNetwork that is built by options, saved and loaded."""

    kind = "prefix"

    @classmethod
    def build(cls, config: Any, facts: TrainingFacts) -> PrefixCaptioner:
        reference = config.recipe == "reference"
        language_model, tokenizer = load_language_model(config.lm)
        embedding_dim = language_model.get_input_embeddings().weight.shape[1]
        mapping = MappingConfig(
            mapping_type=config.mapping_type,
            feature_dim=facts.feature_dim,
            embedding_dim=embedding_dim,
            prefix_length=config.prefix_length,
            max_frames=facts.max_frames,
            num_layers=config.num_layers,
            dropout=config.dropout,
            input_norm=not reference,
            temporal_positions=not reference,
            normalize_prefix=config.normalize_prefix,
            hidden_dim=max(1, embedding_dim // 2) if reference else None,
            text_noise=config.text_noise if config.text_only else None,
            memory=config.text_memory if config.text_only else 0,
        )
        digest = digest_language_model(language_model)
        torch.manual_seed(config.seed)
        stop_text = STOP_TEXT if reference else None
        origins = facts.origins if config.origin_token else 0
        rebuilt = CaptionerConfig(
            mapping, config.lm, digest, config.only_prefix, stop_text, config.lora_rank, origins,
            config.predicted_words, config.memory,
        )  # fmt: skip
        return cls(rebuilt, language_model, tokenizer)

    @classmethod
    def read_config(cls, raw: dict[str, Any]) -> CaptionerConfig:
        # text_dim: of the contrastive loss, which had its weights in here once.
        kept = {name: value for name, value in raw.items() if name != "text_dim"}
        return CaptionerConfig(**{**kept, "mapping": MappingConfig(**raw["mapping"])})

    @classmethod
    def load(cls, config: CaptionerConfig, checkpoint: Path, language_model: str | None) -> PrefixCaptioner:
        captioner = cls(config, *cls._language_model(config, checkpoint, language_model))
        if config.prompt_length:
            captioner.prompt_with(*read_prompter(checkpoint, config.feature_dim, config.memory))
        return captioner

    @staticmethod
    def _language_model(config: CaptionerConfig, checkpoint: Path, language_model: str | None) -> tuple[Any, Any]:
        """The one of a checkpoint, or named by it, and its tokenizer."""
        if config.frozen_decoder:
            decoder, tokenizer = load_language_model(language_model or config.language_model)
            if digest_language_model(decoder) != config.language_model_digest:
                raise ClipcapError(
                    f"language model {language_model or config.language_model!r} is not the one that {checkpoint} was "
                    f"trained with ({config.language_model!r}, {config.language_model_digest}); give that one with --lm"
                )
            return decoder, tokenizer
        if language_model is not None:
            raise ClipcapError(f"{checkpoint} carries its own fine-tuned language model; leave out --lm")
        folder = checkpoint / LANGUAGE_MODEL
        if not (folder / CONFIG).is_file():
            raise ClipcapError(f"{checkpoint} lacks {LANGUAGE_MODEL}/{CONFIG}; the checkpoint is incomplete")
        return language_model_from_config(folder), load_tokenizer(checkpoint / TOKENIZER)

    def extend(self, config: Any) -> None:
        """Reads a prompt from here on where `config` asks for one; what is new of it has not been learned yet."""
        words, captions = config.predicted_words or self.config.predicted_words, config.memory or self.config.memory
        if (words or captions) and not self.config.prompt_length:
            self.prompt_kind = nn.Parameter(torch.zeros(2, self.config.mapping.embedding_dim))
        self.config = replace(self.config, predicted_words=words, memory=captions)

    def prompt_with(self, ranker: ConsensusRanker, memory: CaptionMemory | None) -> Prompter:
        """Makes the prompter that it reads videos by from here on."""
        words, captions = self.config.predicted_words, self.config.memory
        end = self.tokenizer.eos_token_id
        self.prompter = Prompter(ranker, memory, words, captions, self._encode_all, end)
        return self.prompter

    @classmethod
    def outline(cls, config: CaptionerConfig, checkpoint: Path) -> nn.Module:
        saved = {} if config.frozen_decoder else outline_of_saved(checkpoint)
        origin = {"origin": nn.Embedding(config.origins, config.mapping.embedding_dim)} if config.origins else {}
        outline = nn.ModuleDict({"mapping": build_mapping(config.mapping), **origin, **saved})
        if config.prompt_length:
            outline.prompt_kind = nn.Parameter(torch.zeros(2, config.mapping.embedding_dim))
        return outline

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        super().save(folder, dtype)
        if not self.config.frozen_decoder:
            self.language_model.config.save_pretrained(folder / LANGUAGE_MODEL)
        if self.prompter is not None:
            self.prompter.save(folder)

    def keep_in(self, precision: str, device: torch.device, frozen_only: bool = False) -> None:
        if self.config.frozen_decoder or not frozen_only:
            self.frozen_output = keep_in(self.language_model, precision, device, frozen_only=frozen_only)

    def describe(self) -> dict[str, str]:
        network = "{mapping_type}, {prefix_length} prefix tokens".format_map(vars(self.config.mapping))
        counts = {"predicted words": self.config.predicted_words, "captions of other videos": self.config.memory}
        prompt = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return {"mapping network": network, **({"prompt": prompt} if prompt else {})}

    def architecture(self) -> dict[str, Any]:
        """num_layers: None where the mapping network has none."""
        mapping = self.config.mapping
        choices = {n: getattr(mapping, n) for n in ("mapping_type", "prefix_length", "num_layers", "normalize_prefix")}
        return choices | {"num_layers": None} if mapping.mapping_type == "mlp" else choices

    def backbone(self) -> nn.Module:
        return self.language_model

    def omitted_weights(self) -> Iterator[str]:
        """A frozen language model but for its adapters; output weights that are the input embeddings once more."""
        embedding = self.language_model.get_input_embeddings().weight
        named = ("wte.weight", "embed_tokens.weight")
        for name, parameter in self.language_model.state_dict(keep_vars=True).items():
            frozen = self.config.frozen_decoder and not is_adapter_weight(name)
            if frozen or (parameter is embedding and not name.endswith(named)):
                yield f"language_model.{name}"
