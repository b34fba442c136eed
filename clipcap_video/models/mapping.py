"""Mapping networks: frame features -> prefix of language-model embeddings (Mokady et al., arXiv 2111.09734).

Three networks share one interface, `(features [B, T, D], mask [B, T]) -> prefix [B, P, E]`:

* `mlp`          every frame passes through a two-layer perceptron; the results are resampled over time to P tokens.
* `transformer`  frames and P learned prefix constants attend to each other; the constants' outputs are the prefix.
* `cross`        P learned prefix constants attend to the frames only.

The networks of the ClipCap programs are configurations of these, without `input_norm` and `temporal_positions`: see
`models/legacy.py`. A new network is a subclass of `MappingNetwork` and a line in `MAPPING_NETWORKS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.errors import ClipcapError


@dataclass(frozen=True)
class MappingConfig:
    """Every choice needed to rebuild a mapping network.

    mapping_type: a key of MAPPING_NETWORKS.
    feature_dim: D, width of a frame feature.
    embedding_dim: E, width of a language-model embedding.
    prefix_length: P, embeddings that stand before the caption.
    max_frames: frames that have a temporal position of their own; longer videos share them by interpolation.
    num_layers, num_heads: of the transformers; heads are lowered to a divisor of E.
    dropout: in the mapping network, while training.
    input_norm: layer norm over each frame feature, so that encoders of any scale train alike.
    temporal_positions: add a learned embedding of the frame's place.
    normalize_prefix: divide each frame feature by its L2 norm first.
    tokens_per_frame: tokens that each frame becomes before it meets the prefix; image ClipCap makes all of its tokens
        from the one vector of a picture.
    hidden_dim: width of the mlp's hidden layer; None is twice E.
    """

    mapping_type: str
    feature_dim: int
    embedding_dim: int
    prefix_length: int
    max_frames: int
    num_layers: int = 8
    num_heads: int = 8
    dropout: float = 0.0
    input_norm: bool = True
    temporal_positions: bool = True
    normalize_prefix: bool = False
    tokens_per_frame: int = 1
    hidden_dim: int | None = None

    def __post_init__(self) -> None:
        if self.mapping_type not in MAPPING_TYPES:
            raise ClipcapError(f"unknown mapping type {self.mapping_type!r}; use one of {', '.join(MAPPING_TYPES)}")
        for name in (
            "feature_dim",
            "embedding_dim",
            "prefix_length",
            "max_frames",
            "num_layers",
            "num_heads",
            "tokens_per_frame",
            "hidden_dim",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ClipcapError(f"{name} must be at least 1, not {value}")


class FrameInput(nn.Module):
    """What all networks do to frame features first: scale them and tell them their place in time.

    width: W, of the tokens that it makes; tokens: K, how many of each frame.
    """

    def __init__(self, config: MappingConfig, width: int, tokens: int) -> None:
        super().__init__()
        self.normalize = config.normalize_prefix
        self.width = width
        self.norm = nn.LayerNorm(config.feature_dim) if config.input_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(config.feature_dim, tokens * width)
        self.positions = (
            nn.Parameter(torch.randn(config.max_frames * tokens, width) * 0.02) if config.temporal_positions else None
        )

    def forward(self, features: Tensor) -> Tensor:
        """features: [B, T, D] -> [B, T * K, W]."""
        if self.normalize:
            features = F.normalize(features, dim=-1)
        frames = self.linear(self.dropout(self.norm(features)))
        frames = frames.reshape(len(features), -1, self.width)  # [B, T * K, W]
        if self.positions is not None:
            frames = frames + temporal_positions(self.positions, frames.shape[1])
        return frames


def temporal_positions(table: Tensor, frames: int) -> Tensor:
    """Rows of `table` [M, W] for `frames` frames -> [T, W]; beyond M frames the table is stretched linearly."""
    if frames <= table.shape[0]:
        return table[:frames]
    stretched = F.interpolate(table.T[None], size=frames, mode="linear", align_corners=True)
    return stretched[0].T


class MappingNetwork(nn.Module):
    """Base of the mapping networks."""

    def __init__(self, config: MappingConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """The prefix of each video.

        features: [B, T, D]; mask: [B, T] bool, True where a frame is real (padding comes last).
        Returns [B, P, E]. What stands in padded frames has no influence.
        """
        raise NotImplementedError


class MLPMapping(MappingNetwork):
    """A perceptron of two layers, which makes K tokens of each frame; then P averages over equal stretches of them.

    With as many tokens as the prefix has, each is its own average: the MSR-VTT ClipCap program's perceptron makes one
    token of each of its frames, image ClipCap's makes all P of one vector.
    """

    def __init__(self, config: MappingConfig) -> None:
        super().__init__(config)
        width = config.embedding_dim
        hidden = config.hidden_dim or 2 * width
        self.frames = FrameInput(config, hidden, tokens=1)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(hidden, config.tokens_per_frame * width)
        self.prefix_positions = (
            nn.Parameter(torch.randn(config.prefix_length, width) * 0.02) if config.temporal_positions else None
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        config = self.config
        tokens = self.project(self.dropout(torch.tanh(self.frames(features))))  # [B, T, K * E]
        tokens = tokens.reshape(len(features), -1, config.embedding_dim)  # [B, T * K, E]
        mask = mask.repeat_interleave(config.tokens_per_frame, dim=1)
        prefix = resampling_weights(mask, config.prefix_length).to(tokens.dtype) @ tokens
        return prefix if self.prefix_positions is None else prefix + self.prefix_positions


def resampling_weights(mask: Tensor, tokens: int) -> Tensor:
    """Weights that resample each video's real frames to `tokens` steps of equal length.

    Of a video with n frames, frame t covers [t/n, (t+1)/n) and token p covers [p/P, (p+1)/P); the weight is the
    share of the token's time that the frame covers. mask: [B, T] bool -> float32 [B, P, T]; rows sum to one.
    """
    count = mask.sum(1).clamp(min=1).float()[:, None, None]  # [B, 1, 1]
    time = torch.arange(mask.shape[1], device=mask.device).float()
    token = torch.arange(tokens, device=mask.device).float()[:, None]
    start = torch.maximum(time / count, token / tokens)
    end = torch.minimum((time + 1) / count, (token + 1) / tokens)
    overlap = (end - start).clamp(min=0) * mask[:, None, :]
    return overlap / overlap.sum(-1, keepdim=True).clamp(min=1e-9)


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


class CrossMapping(TransformerMapping):
    """Learned prefix constants that attend to the frames, which stay as they are."""

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        frames, attended = self.frames(features), self._token_mask(mask)
        x = self.prefix_const.expand(len(features), -1, -1).to(frames.dtype)
        for layer in self.layers:
            x = layer(x, y=frames, mask=attended)
        return x


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)


MAPPING_NETWORKS: dict[str, type[MappingNetwork]] = {
    "mlp": MLPMapping,
    "transformer": TransformerMapping,
    "cross": CrossMapping,
}
MAPPING_TYPES = tuple(MAPPING_NETWORKS)


def build_mapping(config: MappingConfig) -> MappingNetwork:
    """The mapping network that `config` describes, with fresh weights."""
    return MAPPING_NETWORKS[config.mapping_type](config)
