"""What mapping networks have in common: their configuration, and what each does to frame features first."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.errors import ClipcapError


@dataclass(frozen=True)
class MappingConfig:
    """Every choice needed to rebuild a mapping network.

    mapping_type: a name of models/mapping/__init__.py.
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
    text_noise: trained on captions alone, with noise of this standard deviation, see `joint.py`; None is on videos.
    memory: M, captions that videos are told by at inference, where it was; 0 is none.
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
    text_noise: float | None = None
    memory: int = 0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.type in ("int", "int | None")):
            value = getattr(self, name)
            if value is not None and value < (name != "memory"):
                raise ClipcapError(f"{name} must be at least {int(name != 'memory')}, not {value}")


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
