"""The mapping network `mlp`: a perceptron over frames, resampled over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipcap_video.models.mapping.base import FrameInput, MappingConfig, MappingNetwork


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
