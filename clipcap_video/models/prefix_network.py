"""The prefix captioner's network: a mapping network in front of a causal language model (ClipCap, arXiv 2111.09734)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.errors import ClipcapError
from clipcap_video.models import attention
from clipcap_video.models.adapters import add_adapters
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.dropout import own_dropouts
from clipcap_video.models.lanes import lanes_pay, loss_in_lanes
from clipcap_video.models.mapping import build_mapping
from clipcap_video.models.packing import PackedCaptions, packed_attention
from clipcap_video.models.prefix_config import CaptionerConfig
from clipcap_video.models.prefix_decoding import PrefixDecoding
from clipcap_video.models.prompt import Prompter, prompt_lengths


class PrefixNetwork(CaptionModel):
    """Prefix of P embeddings from the frames, then the language model.

    language_model: a `transformers` causal language model; tokenizer: its tokenizer.
    """

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
        attention.use_for(language_model)
        self._owns_dropouts = own_dropouts(language_model)
        if config.only_prefix:
            self.language_model.requires_grad_(False)
        elif config.lora_rank:
            add_adapters(language_model, config.lora_rank)

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

    def train(self, mode: bool = True) -> PrefixNetwork:
        super().train(mode)
        if self.config.only_prefix:
            # A frozen language model must not drop out either: it is a fixed function.
            self.language_model.eval()
        return self

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
        trained = [weight for weight in self.language_model.parameters() if weight.requires_grad]
        if self._owns_dropouts and lanes_pay(prefix.device, trained, self.config.frozen_decoder):
            pieces = None if self.config.frozen_decoder else torch.get_num_threads()
            return loss_in_lanes(loss_of, prefix, batch, trained, pieces) / len(batch.labels)
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
            **attention.of_packed(self.language_model, batch, count),
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
        return PrefixDecoding(self.language_model, self.head(mask.device), self.prefix(features, mask), max_tokens)

    def head(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Logits of hidden states, by weights cast once a batch where autocast would do it in every step."""
        if self.frozen_output is not None:
            return self.frozen_output
        weight, bias = self.output_layer()
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight.dtype
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        return lambda hidden: F.linear(hidden.to(dtype), weight, bias)

    def check_length(self, max_tokens: int) -> None:
        """Raises ClipcapError when prefix and a caption of `max_tokens` exceed the language model's positions."""
        limit = getattr(self.language_model.config, "max_position_embeddings", math.inf)
        if self.config.prefix_length + max_tokens + 1 > limit:
            prompt = " or the prompt" if self.config.prompt_length else ""
            raise ClipcapError(
                f"{self.config.prefix_length} prefix tokens and {max_tokens} caption tokens exceed the {limit} "
                f"positions of the language model; lower the entry length or the prefix length{prompt}"
            )
