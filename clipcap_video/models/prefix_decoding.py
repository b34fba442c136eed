"""Captions of a prefix captioner, token by token: a `decoding.protocol.StepModel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.models.language_model import cache_name, roomy_cache


class PrefixDecoding:
    """Captions of B videos in the making: the language model's cache, shared by all lanes of a video.

    All lanes of a video live in one cache row: the prefix once, then the K tokens of every step. A lane is a path
    through those tokens, kept as a mask, so that choosing other parents moves no keys or values.

    head: hidden states [..., E] -> logits [..., V]; prefix: [B, P, E]; max_tokens: of a caption.
    """

    def __init__(self, language_model: Any, head: Callable[[Tensor], Tensor], prefix: Tensor, max_tokens: int) -> None:
        self.language_model = language_model
        self.prefix = prefix
        self.position = prefix.shape[1]
        self.head = head
        self.cache = roomy_cache(language_model.config.num_hidden_layers, max_tokens)
        self.cache_name = cache_name(language_model)
        # [B, K, S] bool: which of the S tokens generated so far belong to the lane.
        self.path = torch.zeros(len(prefix), 1, 0, dtype=torch.bool, device=prefix.device)

    def begin(self) -> Tensor:
        """Logits of the first token: [B, V], float32 or bf16."""
        embeddings = self.language_model.get_input_embeddings()
        hidden = self._run(self.prefix.to(embeddings.weight.dtype), None, torch.arange(self.position))
        return self.head(hidden[:, -1])

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Appends tokens [B, K] to the lanes `parents` [B, K] of the step before -> logits [B, K, V]."""
        lanes = tokens.shape[1]
        inherited = self.path.gather(1, parents[:, :, None].expand(-1, -1, self.path.shape[2]))
        itself = torch.eye(lanes, dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
        self.path = torch.cat([inherited, itself], dim=2)
        seen = F.pad(self.path, (self.prefix.shape[1], 0), value=True)
        embeddings = self.language_model.get_input_embeddings()(tokens)
        hidden = self._run(embeddings, seen[:, None], torch.full((lanes,), self.position))
        self.position += 1
        return self.head(hidden)

    def _run(self, embeddings: Tensor, seen: Tensor | None, positions: Tensor) -> Tensor:
        out = self.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=seen,
            position_ids=positions.to(embeddings.device).expand(len(embeddings), -1),
            use_cache=True,
            **{self.cache_name: self.cache},
        )
        return out.last_hidden_state

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.path = self.path[rows]
        self.prefix = self.prefix[rows]
