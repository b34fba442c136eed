"""A mapping network that learns from captions alone, in a space where captions and videos meet.

While it trains it reads a caption's own embedding and noise, so that what lies near the embedding becomes the same
caption (CapDec: Nukrai et al., arXiv 2211.00575). At inference a video's embedding takes its place, or what a memory of
caption embeddings makes of that: their mean, weighed by how near they are (DeCap: Li et al., arXiv 2303.03032).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.models.mapping.base import MappingConfig, MappingNetwork


class JointMapping(MappingNetwork):
    """One vector a video, and any mapping network behind it.

    memory: [M, D] of unit length, embeddings of captions; M may be 0, and then a video's embedding is read as it is.
    scale: by which cosines to them become logits, that of the space (100 of CLIP, as DeCap has it).
    """

    memory: Tensor
    scale: Tensor

    def __init__(self, config: MappingConfig, inner: MappingNetwork) -> None:
        super().__init__(config)
        self.inner = inner
        self.register_buffer("memory", torch.zeros(config.memory, config.feature_dim))
        self.register_buffer("scale", torch.tensor(100.0))

    @staticmethod
    def inner_config(config: MappingConfig) -> MappingConfig:
        """Of the network behind it, which sees one frame and no place in time."""
        return replace(config, max_frames=1, temporal_positions=False, text_noise=None, memory=0)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        joint = self.embed(features, mask)
        if self.training:
            noise = self.config.text_noise or 0.0
            joint = F.normalize(joint + noise * torch.randn_like(joint), dim=-1)
        elif len(self.memory):
            joint = project(joint, self.memory, self.scale)
        return self.inner(joint[:, None], mask[:, :1])

    @staticmethod
    def embed(features: Tensor, mask: Tensor) -> Tensor:
        """The mean of the real frames, each of unit length, at unit length: [B, T, D], [B, T] -> [B, D] float32."""
        frames = F.normalize(features.float(), dim=-1) * mask[..., None]
        return F.normalize(frames.sum(1), dim=-1)


def project(joint: Tensor, memory: Tensor, scale: Tensor) -> Tensor:
    """Vectors [B, D] as means of the memory [M, D], weighed by the softmax of scale * cosine; of unit length."""
    cosines = F.normalize(joint.float(), dim=-1) @ memory.float().T
    return F.normalize((scale * cosines).softmax(-1) @ memory.float(), dim=-1)
