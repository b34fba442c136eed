"""The prefix captioner: a mapping network in front of a causal language model (ClipCap, arXiv 2111.09734)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.datasets.packing import PackedCaptions
from clipcap_video.errors import ClipcapError
from clipcap_video.models.adapters import add_adapters
from clipcap_video.models.loss import summed_cross_entropy
from clipcap_video.models.mapping import MappingConfig, build_mapping
from clipcap_video.models.packed_mask import (
    BLOCK,
    PADDING,
    block_attention,
    block_mask,
    dense_mask,
    suits_blocks,
)


@dataclass(frozen=True)
class CaptionerConfig:
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
    """

    mapping: MappingConfig
    language_model: str
    language_model_digest: str
    only_prefix: bool
    stop_text: str | None = None
    lora_rank: int = 0

    @property
    def frozen_decoder(self) -> bool:
        """Whether the checkpoint does without the language model's own weights."""
        return self.only_prefix or self.lora_rank > 0


class PrefixCaptioner(nn.Module):
    """Prefix of P embeddings from the frames, then the language model.

    language_model: a `transformers` causal language model; tokenizer: its tokenizer.
    """

    def __init__(self, config: CaptionerConfig, language_model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.mapping = build_mapping(config.mapping)
        self.language_model = language_model
        if config.only_prefix:
            self.language_model.requires_grad_(False)
        elif config.lora_rank:
            add_adapters(language_model, config.lora_rank)

    @property
    def device(self) -> torch.device:
        return next(self.mapping.parameters()).device

    @property
    def stop_tokens(self) -> list[int]:
        return [
            self.tokenizer.eos_token_id if self.config.stop_text is None else self._encode(self.config.stop_text)[0]
        ]

    @property
    def whole_captions(self) -> bool:
        """Whether the model learned where captions end, so that decoding may insist on an end."""
        return self.config.stop_text is None

    @property
    def length_penalty(self) -> float:
        """The length penalty that beams are ranked by unless told otherwise.

        0.6 was chosen on MSR-VTT validation captions (docs/quality.md); the ClipCap programs rank by the mean.
        """
        return 0.6 if self.whole_captions else 1.0

    @property
    def ignored_label(self) -> int | None:
        """A token id that is read but never predicted in training."""
        return None if self.config.stop_text is None else 0

    def train(self, mode: bool = True) -> PrefixCaptioner:
        super().train(mode)
        if self.config.only_prefix:
            # A frozen language model must not drop out either: it is a fixed function.
            self.language_model.eval()
        return self

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
        if not self.whole_captions:
            # To the letter what the ClipCap programs give: the stop text is part of it, and so is every space.
            return self.tokenizer.decode(tokens if stop_token is None else [*tokens, stop_token])
        return " ".join(self.tokenizer.decode(tokens, skip_special_tokens=True).split())

    def forward(self, batch: PackedCaptions, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats over all labels of the batch, each times its weight where it has one."""
        prefix = self.mapping(batch.features, batch.mask)
        hidden = self._read_packed(prefix, batch)
        length = hidden.shape[1]
        # Every caption's first token is predicted at the end of the prefix: one row of logits serves them all.
        places = batch.label_row * length + batch.label_column + prefix.shape[1]
        rows, row_of_label = places.unique(return_inverse=True)
        predicting = hidden.reshape(-1, hidden.shape[-1])[rows]  # [rows, E]
        head = self.language_model.get_output_embeddings()
        total = summed_cross_entropy(
            predicting,
            head.weight,
            getattr(head, "bias", None),
            row_of_label,
            batch.labels,
            batch.label_weight,
            label_smoothing,
        )
        return total / len(batch.labels)

    def _read_packed(self, prefix: Tensor, batch: PackedCaptions) -> Tensor:
        """Hidden states [B, P + L, E] behind prefix [B, P, E] and packed captions [B, L]."""
        count, length = prefix.shape[1], batch.tokens.shape[1]
        blocks = suits_blocks(self.language_model, prefix.device, count + length)
        # The kernel is compiled for each length, so there are to be few.
        room = -(count + length) % BLOCK if blocks else 0
        tokens = F.pad(batch.tokens, (0, room))
        caption, position = F.pad(batch.caption, (0, room), value=PADDING), F.pad(batch.position, (0, room))
        embeddings = self.language_model.get_input_embeddings()(tokens)
        places = torch.arange(count, device=prefix.device).expand(len(prefix), -1)
        mask = block_mask if blocks else dense_mask
        with block_attention(self.language_model) if blocks else nullcontext():
            out = self.language_model.base_model(
                inputs_embeds=torch.cat([prefix.to(embeddings.dtype), embeddings], dim=1),
                attention_mask=mask(caption, position, count),
                position_ids=torch.cat([places, position + count], dim=1),
                use_cache=False,
            )
        return out.last_hidden_state[:, : count + length]

    def start(self, features: Tensor, mask: Tensor, max_tokens: int) -> PrefixDecoding:
        """State for decoding captions of up to `max_tokens` tokens; see decoding.protocol.StepModel.

        features: [B, T, D]; mask: [B, T] bool.
        Raises ClipcapError when prefix and caption are longer than the language model can read.
        """
        self.check_length(max_tokens)
        return PrefixDecoding(self, self.mapping(features, mask), max_tokens)

    def check_length(self, max_tokens: int) -> None:
        """Raises ClipcapError when prefix and a caption of `max_tokens` exceed the language model's positions."""
        limit = getattr(self.language_model.config, "max_position_embeddings", math.inf)
        needed = self.config.mapping.prefix_length + max_tokens + 1
        if needed > limit:
            raise ClipcapError(
                f"{self.config.mapping.prefix_length} prefix tokens and {max_tokens} caption tokens exceed the "
                f"{limit} positions of the language model; lower the entry length or the prefix length"
            )


class PrefixDecoding:
    """Captions of B videos in the making: the language model's cache, shared by all lanes of a video.

    All lanes of a video live in one cache row: the prefix once, then the K tokens of every step. A lane is a path
    through those tokens, kept as a mask, so that choosing other parents moves no keys or values.
    """

    def __init__(self, captioner: PrefixCaptioner, prefix: Tensor, max_tokens: int) -> None:
        from clipcap_video.models.cache import roomy_cache

        self.captioner = captioner
        self.prefix = prefix
        self.position = prefix.shape[1]
        head = captioner.language_model.get_output_embeddings()
        # Cast once a batch where autocast would do it in every step.
        device = prefix.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
        bias = getattr(head, "bias", None)
        self.head = (head.weight.to(dtype), None if bias is None else bias.to(dtype))
        self.cache = roomy_cache(captioner.language_model.config.num_hidden_layers, max_tokens)
        # [B, K, S] bool: which of the S tokens generated so far belong to the lane.
        self.path = torch.zeros(len(prefix), 1, 0, dtype=torch.bool, device=prefix.device)

    def begin(self) -> Tensor:
        """Logits of the first token: [B, V] float32."""
        embeddings = self.captioner.language_model.get_input_embeddings()
        hidden = self._run(self.prefix.to(embeddings.weight.dtype), None, torch.arange(self.position))
        return self._logits(hidden[:, -1])

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Appends tokens [B, K] to the lanes `parents` [B, K] of the step before -> logits [B, K, V] float32."""
        lanes = tokens.shape[1]
        slots = self.path.shape[2]
        inherited = self.path.gather(1, parents[:, :, None].expand(-1, -1, slots))
        own = torch.eye(lanes, dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
        self.path = torch.cat([inherited, own], dim=2)
        seen = F.pad(self.path, (self.prefix.shape[1], 0), value=True)
        embeddings = self.captioner.language_model.get_input_embeddings()(tokens)
        hidden = self._run(embeddings, seen[:, None], torch.full((lanes,), self.position))
        self.position += 1
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        """hidden: [..., E] -> float32 [..., V]."""
        weight, bias = self.head
        return F.linear(hidden.to(weight.dtype), weight, bias).float()

    def _run(self, embeddings: Tensor, seen: Tensor | None, positions: Tensor) -> Tensor:
        out = self.captioner.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=seen,
            position_ids=positions.to(embeddings.device).expand(len(embeddings), -1),
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.path = self.path[rows]
        self.prefix = self.prefix[rows]
