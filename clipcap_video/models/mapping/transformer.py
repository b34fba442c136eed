"""The mapping network `transformer`: frames and learned prefix constants attend to each other (arXiv 2111.09734)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.models.mapping.base import FrameInput, MappingConfig, MappingNetwork


class Attention(nn.Module):
    """Multi-head attention of x to y (to itself when y is None), without biases on queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor | None, mask: Tensor | None) -> Tensor:
        """x: [B, N, E]; y: [B, M, E]; mask: [B, M] bool, True where a key may be attended to."""
        y = x if y is None else y
        batch, length, width = x.shape
        queries = self.to_queries(x).view(batch, length, self.heads, -1)  # [B, N, H, E/H]
        keys, values = self.to_keys_values(y).view(batch, y.shape[1], 2, self.heads, -1).unbind(2)  # [B, M, H, E/H]
        # The fused kernels are no faster for so few tokens, and round otherwise than the ClipCap programs: over eight
        # layers that is 1e-5 in the prefix.
        scores = torch.einsum("bnhd,bmhd->bnmh", queries, keys) * (width // self.heads) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :, None], float("-inf"))
        weights = F.dropout(scores.softmax(dim=2), self.dropout, self.training)
        out = torch.einsum("bnmh,bmhd->bnhd", weights, values)
        return self.project(out.reshape(batch, length, width))


class TransformerLayer(nn.Module):
    """Pre-norm attention and a two-layer perceptron of twice the width, as in ClipCap."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), y, mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class TransformerMapping(MappingNetwork):
    """Self-attention over frames and learned prefix constants."""

    def __init__(self, config: MappingConfig) -> None:
        super().__init__(config)
        width = config.embedding_dim
        heads = largest_divisor(width, config.num_heads)
        self.frames = FrameInput(config, width, config.tokens_per_frame)
        self.prefix_const = nn.Parameter(torch.randn(config.prefix_length, width))
        self.layers = nn.ModuleList(TransformerLayer(width, heads, config.dropout) for _ in range(config.num_layers))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        frames = self.frames(features)
        constants = self.prefix_const.expand(len(features), -1, -1).to(frames.dtype)
        x = torch.cat([frames, constants], dim=1)  # [B, T * K + P, E]
        attended = F.pad(self._token_mask(mask), (0, constants.shape[1]), value=True)
        for layer in self.layers:
            x = layer(x, mask=attended)
        return x[:, frames.shape[1] :]

    def _token_mask(self, mask: Tensor) -> Tensor:
        """mask: [B, T] -> [B, T * K], of the tokens that the frames become."""
        return mask.repeat_interleave(self.config.tokens_per_frame, dim=1)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)
