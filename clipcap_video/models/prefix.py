"""The prefix captioner: a mapping network in front of a causal language model (ClipCap, arXiv 2111.09734)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipcap_video.consensus.memory import CaptionMemory
from clipcap_video.consensus.network import ConsensusRanker
from clipcap_video.errors import ClipcapError
from clipcap_video.models.adapters import add_adapters, is_adapter_weight
from clipcap_video.models.base import CONFIG, LANGUAGE_MODEL, TOKENIZER, CaptionModel, ModelConfig, TrainingFacts
from clipcap_video.models.lanes import loss_in_lanes
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
from clipcap_video.models.packing import PackedCaptions, packed_attention
from clipcap_video.models.prefix_decoding import PrefixDecoding
from clipcap_video.models.prompt import Prompter, prompt_lengths, read_prompter

STOP_TEXT = "."  # of the ClipCap programs


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


class PrefixCaptioner(CaptionModel):
    """Prefix of P embeddings from the frames, then the language model.

    language_model: a `transformers` causal language model; tokenizer: its tokenizer.
    """

    kind = "prefix"

    def __init__(self, config: CaptionerConfig, language_model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.mapping = build_mapping(config.mapping)
        if config.origins:
            self.origin = nn.Embedding(config.origins, config.mapping.embedding_dim)
        self.prompter: Prompter | None = None
        if config.prompt_length:  # what tells words and captions from what is said
            self.prompt_kind = nn.Parameter(torch.zeros(2, config.mapping.embedding_dim))
        self.language_model = language_model
        if config.only_prefix:
            self.language_model.requires_grad_(False)
        elif config.lora_rank:
            add_adapters(language_model, config.lora_rank)

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

    def keep_in(self, precision: str, frozen_only: bool = False) -> None:
        if self.config.frozen_decoder or not frozen_only:
            keep_in(self.language_model, precision, frozen_only=frozen_only)

    @property
    def stop_tokens(self) -> list[int]:
        if self.config.stop_text is None:
            return super().stop_tokens
        return [self._encode(self.config.stop_text)[0]]

    @property
    def whole_captions(self) -> bool:
        return self.config.stop_text is None

    @property
    def ignored_label(self) -> int | None:
        return None if self.config.stop_text is None else 0

    def train(self, mode: bool = True) -> PrefixCaptioner:
        super().train(mode)
        if self.config.only_prefix:
            # A frozen language model must not drop out either: it is a fixed function.
            self.language_model.eval()
        return self

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

    def decode_tokens(self, tokens: list[int], stop_token: int | None = None) -> str:
        if not self.whole_captions:
            # To the letter what the ClipCap programs give: the stop text is part of it, and so is every space.
            return self.tokenizer.decode(tokens if stop_token is None else [*tokens, stop_token])
        return super().decode_tokens(tokens)

    def forward(self, batch: PackedCaptions, label_smoothing: float = 0.0) -> Tensor:
        prefix = self.prefix(batch.features, batch.mask, batch.origin, batch.prompt)
        return self.caption_loss(prefix, batch, label_smoothing)

    def prefix(
        self, features: Tensor, mask: Tensor, origin: Tensor | None = None, prompt: Tensor | None = None
    ) -> Tensor:
        """What stands before a caption: features [B, T, D], mask [B, T] bool, origin [B] int64 -> [B, P, E].

        prompt: int64 [B, H], in place of what the prompter chooses.
        """
        parts = [self.mapping(features, mask)]
        if self.config.prompt_length:
            parts.append(self._prompt(features, mask) if prompt is None else self._embedded(prompt))
        if self.config.origins:
            places = torch.zeros(len(mask), dtype=torch.int64, device=mask.device) if origin is None else origin
            parts.append(self.origin(places)[:, None])
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _prompt(self, features: Tensor, mask: Tensor) -> Tensor:
        assert self.prompter is not None
        return self._embedded(self.prompter.tokens(self.prompter.shares(features, mask)).to(mask.device))

    def _embedded(self, prompt: Tensor) -> Tensor:
        """Tokens [B, H] of a prompt -> [B, H, E]."""
        words, captions = prompt_lengths(self.config.predicted_words, self.config.memory)
        kinds = torch.cat([self.prompt_kind[:1].expand(words, -1), self.prompt_kind[1:].expand(captions, -1)])
        return self.language_model.get_input_embeddings()(prompt) + kinds

    def remembered(self, features: Tensor, mask: Tensor) -> list[list[str]]:
        if self.prompter is None or self.prompter.memory is None:
            return super().remembered(features, mask)
        return self.prompter.candidates(features, mask)

    def caption_loss(self, prefix: Tensor, batch: PackedCaptions, label_smoothing: float = 0.0) -> Tensor:
        """The loss of a batch whose prefix [B, P, E] is there already."""
        loss_of = partial(self._summed_loss, label_smoothing=label_smoothing)
        if self.config.only_prefix and prefix.device.type == "cpu":
            return loss_in_lanes(loss_of, prefix, batch) / len(batch.labels)
        return loss_of(prefix, batch) / len(batch.labels)

    def _summed_loss(self, prefix: Tensor, batch: PackedCaptions, label_smoothing: float) -> Tensor:
        hidden, length = self._read_packed(prefix, batch), prefix.shape[1] + batch.tokens.shape[1]
        # Every caption's first token is predicted at the end of the prefix: one row of logits serves them all.
        places = batch.label_row * length + batch.label_column + prefix.shape[1]
        rows, row_of_label = places.unique(return_inverse=True)
        predicting = hidden.reshape(-1, hidden.shape[-1])[rows]  # [rows, E]
        return self._label_loss(predicting, row_of_label, batch, label_smoothing)

    def _read_packed(self, prefix: Tensor, batch: PackedCaptions) -> Tensor:
        """Hidden states [B, P + L, E] behind prefix [B, P, E] and packed captions [B, L]."""
        count = prefix.shape[1]
        embeddings = self.language_model.get_input_embeddings()(batch.tokens)
        places = torch.arange(count, device=prefix.device).expand(len(prefix), -1)
        return self.language_model.base_model(
            inputs_embeds=torch.cat([prefix.to(embeddings.dtype), embeddings], dim=1),
            attention_mask=packed_attention(batch.caption, batch.position, count)[:, None],
            position_ids=torch.cat([places, batch.position + count], dim=1),
            use_cache=False,
        ).last_hidden_state

    def output_layer(self) -> tuple[Tensor, Tensor | None]:
        head = self.language_model.get_output_embeddings()
        return head.weight, getattr(head, "bias", None)

    def start(self, features: Tensor, mask: Tensor, max_tokens: int) -> PrefixDecoding:
        """State for decoding captions of up to `max_tokens` tokens; see decoding.protocol.StepModel.

        features: [B, T, D]; mask: [B, T] bool.
        Raises ClipcapError when prefix and caption are longer than the language model can read.
        """
        self.check_length(max_tokens)
        return PrefixDecoding(self.language_model, self.output_layer(), self.prefix(features, mask), max_tokens)

    def check_length(self, max_tokens: int) -> None:
        """Raises ClipcapError when prefix and a caption of `max_tokens` exceed the language model's positions."""
        limit = getattr(self.language_model.config, "max_position_embeddings", math.inf)
        if self.config.prefix_length + max_tokens + 1 > limit:
            prompt = " or the prompt" if self.config.prompt_length else ""
            raise ClipcapError(
                f"{self.config.prefix_length} prefix tokens and {max_tokens} caption tokens exceed the {limit} "
                f"positions of the language model; lower the entry length or the prefix length{prompt}"
            )
