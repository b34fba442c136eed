"""Who attends to whom in packed captions: as a matrix of booleans, or as a function for kernels that skip blocks.

FlexAttention (PyTorch) computes only those blocks of the attention in which something is allowed. It is used on devices
that have it, for long sequences, by models without dropout on attention weights; elsewhere the matrix is as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.devices import has_block_attention

PADDING, PREFIX = -1, -2
BLOCK = 128
# Shorter sequences fit a few blocks, of which none could be skipped.
LONG_ENOUGH = 4 * BLOCK

Allowed = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def packed_attention(caption: Tensor, position: Tensor, prefix_length: int) -> Tensor:
    """Who attends to whom in packed sequences.

    caption, position: [B, L] as in PackedCaptions. Returns bool [B, P + L, P + L], True where the query (rows) sees
    the key (columns): the prefix causally, each caption the prefix and its own past, padding itself alone.
    """
    batch, length = caption.shape
    same = caption[:, :, None] == caption[:, None, :]
    past = position[:, :, None] >= position[:, None, :]
    real = caption >= 0
    within = same & past & real[:, :, None] | torch.eye(length, dtype=torch.bool, device=caption.device)
    allowed = torch.zeros(batch, prefix_length + length, prefix_length + length, dtype=torch.bool, device=within.device)
    allowed[:, :prefix_length, :prefix_length] = torch.ones_like(allowed[0, :prefix_length, :prefix_length]).tril()
    allowed[:, prefix_length:, :prefix_length] = real[:, :, None]
    allowed[:, prefix_length:, prefix_length:] = within
    return allowed


def dense_mask(caption: Tensor, position: Tensor, prefix_length: int) -> Tensor:
    """The matrix for all heads: [B, 1, P + L, P + L]."""
    return packed_attention(caption, position, prefix_length)[:, None]


def packed_rule(caption: Tensor, position: Tensor, prefix_length: int) -> Allowed:
    """The same as a function of (batch, head, query, key), each an integer tensor, as FlexAttention takes it."""
    group = F.pad(caption, (prefix_length, 0), value=PREFIX)
    places = torch.arange(prefix_length, device=position.device).expand(len(position), -1)
    place = torch.cat([places, position], 1)

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        mine, other = group[batch, query], group[batch, key]
        within = (mine == other) & (place[batch, query] >= place[batch, key]) & (mine != PADDING)
        prefix = (other == PREFIX) & (mine >= 0)
        return within | prefix | (query == key)

    return allowed


def suits_blocks(language_model: Any, device: torch.device, length: int) -> bool:
    """Whether sequences of `length` are better read with a kernel that takes the block mask."""
    config = language_model.config
    dropout = max(getattr(config, name, 0.0) or 0.0 for name in ("attn_pdrop", "attention_dropout"))
    return has_block_attention(device) and length >= LONG_ENOUGH and not (language_model.training and dropout)


def block_mask(caption: Tensor, position: Tensor, prefix_length: int) -> Any:
    """The rule as FlexAttention's BlockMask, over P + L tokens."""
    from torch.nn.attention.flex_attention import create_block_mask

    length = prefix_length + caption.shape[1]
    rule = packed_rule(caption, position, prefix_length)
    return create_block_mask(rule, len(caption), None, length, length, device=str(caption.device), BLOCK_SIZE=BLOCK)


@contextmanager
def block_attention(language_model: Any) -> Iterator[None]:
    """The language model reads block masks inside; outside, it is as it was."""
    config = language_model.config
    before = config._attn_implementation
    config._attn_implementation = "flex_attention"
    try:
        yield
    finally:
        config._attn_implementation = before
