"""Similarity heads of text-video retrieval after CLIP4Clip (Luo et al., arXiv 2104.08860), and their loss.

A head turns texts and the frames of videos into similarities, `(text [N, D], frames [V, T, D], mask [V, T]) -> [N, V]`:

* `meanP`        cosine of the text and the mean of the frames; no weights but the scale.
* `seqLSTM`      the same, of frames that an LSTM has read in order and added to.
* `seqTransf`    the same, with a transformer over frames with position embeddings.
* `tightTransf`  a transformer reads the text and the frames of each pair together; its first output is the similarity.

A new head is a subclass of `SimilarityHead` and a line in `retrieval.config.SIMILARITY_HEADS`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.errors import ClipcapError
from clipcap_video.models.contrastive import FIRST_SCALE

NORM_EPS = 1e-12  # of the released code's layer norms; CLIP's own have 1e-5
PAIRS_AT_ONCE = 4096  # of text and video, in the tight head


class SimilarityHead(nn.Module):
    """Base of the heads.

    logit_scale: logarithm of what cosines are multiplied by; None in the tight head, which has no use for it.
    separable: a similarity is the scaled cosine of one vector of the text and one of the video, so that videos can
        be indexed.
    """

    separable: ClassVar[bool] = True

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__()
        self.logit_scale: nn.Parameter | None = nn.Parameter(torch.tensor(FIRST_SCALE)) if self.separable else None

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Similarities of all pairs, [N, V] float32, as they enter the softmax of the loss.

        text: [N, D]; frames: [V, T, D]; mask: [V, T] bool, True where a frame is real (padding comes last). What
        stands in padded frames has no influence.
        """
        return self.score(text, self.prepare(frames, mask), mask)

    def prepare(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What the head makes of each video by itself: [V, T, D] -> [V, T, D], zero where mask is False."""
        return F.normalize(self.read(frames, mask).float(), dim=-1) * mask[..., None]

    def read(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames that know of each other: [V, T, D] -> [V, T, D]."""
        return frames

    def score(self, text: Tensor, prepared: Tensor, mask: Tensor) -> Tensor:
        """Similarities [N, V] of texts [N, D] and prepared videos [V, T, D]."""
        assert self.logit_scale is not None
        cosines = F.normalize(text.float(), dim=-1) @ pool(prepared, mask).T
        return self.logit_scale.exp() * cosines


def pool(prepared: Tensor, mask: Tensor) -> Tensor:
    """The vector of each video: the mean of its frames, of unit length. [V, T, D], [V, T] -> [V, D] float32."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return F.normalize((prepared.float() * mask[..., None]).sum(1) / count, dim=-1)


class MeanHead(SimilarityHead):
    """Parameter-free: each frame to unit length, their mean to unit length, times the scale."""


class LSTMHead(SimilarityHead):
    """An LSTM reads the frames in order; what it says of each is added to it."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__(dim, num_layers, num_heads, max_positions)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def read(self, frames: Tensor, mask: Tensor) -> Tensor:
        # Padding comes last, and an LSTM looks back only: padded frames change nothing that is read before them.
        return self.lstm(frames)[0] + frames


class TransformerHead(SimilarityHead):
    """A transformer reads the frames with their positions; what it says of each is added to it."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__(dim, num_layers, num_heads, max_positions)
        self.positions = nn.Parameter(torch.randn(max_positions, dim) * 0.01)
        self.transformer = FrameTransformer(dim, num_layers, num_heads)

    def read(self, frames: Tensor, mask: Tensor) -> Tensor:
        return self.transformer(frames + positions_of(self.positions, frames.shape[1]), mask) + frames


class TightHead(SimilarityHead):
    """A transformer reads the text and the frames of a pair as one sequence; a linear layer scores its first output.

    Text and frames are told apart by their positions alone, as in the released code: there are no type embeddings.
    """

    separable = False

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__(dim, num_layers, num_heads, max_positions)
        self.positions = nn.Parameter(torch.randn(max_positions, dim) * 0.01)
        self.dropout = nn.Dropout(0.1)
        self.transformer = FrameTransformer(dim, num_layers, num_heads)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.dense = nn.Linear(dim, dim)
        self.similarity = nn.Linear(dim, 1)

    def prepare(self, frames: Tensor, mask: Tensor) -> Tensor:
        return frames * mask[..., None]

    def score(self, text: Tensor, prepared: Tensor, mask: Tensor) -> Tensor:
        texts = max(1, PAIRS_AT_ONCE // len(prepared))
        return torch.cat([self._score(part, prepared, mask) for part in text.split(texts)])

    def _score(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        pairs = (len(text), len(frames))
        first = text[:, None, None].expand(*pairs, 1, -1)
        sequence = torch.cat([first, frames[None].expand(pairs[0], -1, -1, -1)], dim=2)  # [N, V, 1 + T, D]
        sequence = sequence + positions_of(self.positions, sequence.shape[2])
        seen = F.pad(mask, (1, 0), value=True)[None].expand(pairs[0], -1, -1)  # [N, V, 1 + T]
        read = self.transformer(self.dropout(sequence.flatten(0, 1)), seen.flatten(0, 1))  # [N * V, 1 + T, D]
        pooled = quick_gelu(self.dense(self.norm(read[:, 0])))
        return self.similarity(pooled).float().view(pairs)


def positions_of(table: Tensor, length: int) -> Tensor:
    """The first `length` rows of [M, D]. Raises ClipcapError when there are fewer."""
    if length > len(table):
        raise ClipcapError(f"{length} frames are more than the {len(table)} positions of the model; lower --max_frames")
    return table[:length]


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


class FrameTransformer(nn.Module):
    """CLIP's transformer over padded sequences; its weights have the names that they have in CLIP."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TransformerBlock(width, heads, layers) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, N, D]; mask: [B, N] bool, True where a token may be attended to."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class TransformerBlock(nn.Module):
    """Pre-norm attention and a perceptron of four times the width, initialised as in a CLIP of `layers` layers."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width, eps=NORM_EPS)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.ModuleDict({"c_fc": widen, "c_proj": narrow})
        self.ln_2 = nn.LayerNorm(width, eps=NORM_EPS)
        deep = (2 * layers * width) ** -0.5
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.attn.out_proj.weight, std=deep)
        nn.init.normal_(widen.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(narrow.weight, std=deep)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, key_padding_mask=~mask, need_weights=False)[0]
        return x + self.mlp["c_proj"](quick_gelu(self.mlp["c_fc"](self.ln_2(x))))
