"""Tokenised captions and the packed batches that models are trained on.

The captions of one video stand one after another in one sequence behind its prefix. Each attends to the prefix
and to itself alone, and counts its positions from the prefix on, so the loss equals that of one row a caption
while the prefix, and the mapping network before it, are computed once a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from clipcap_video.features.base import stack_features


@dataclass
class PackedCaptions:
    """B videos with their frames and captions. L is the longest sequence of captions in the batch.

    features: [B, T, D] float32, zero where mask is False; where the encoder is trained along, pixels of the frames:
        uint8 [B, T, 3, S, S].
    mask: [B, T] bool, True where a frame is real.
    tokens: [B, L] int64, what the decoder reads: every caption without its last token (nothing follows that).
    caption: [B, L] int64, number of the caption that a token belongs to; -1 is padding.
    position: [B, L] int64, place of a token in its caption, from 0.
    label_row, label_column: [N] int64, where each label is predicted: video, and place in `tokens`; column -1 is
        the end of the prefix, which predicts the first token of every caption.
    labels: [N] int64, the tokens to predict, the end token among them where captions have one. Never padding.
    label_weight: [N] float32, what each label's loss is multiplied by; None is 1 everywhere.
    text: [C, W] float32, embeddings of the C captions of all videos in order, and text_row: [C] int64, the row of the
        video of each; None unless the captioner learns to retrieve, too.
    origin: [B] int64, the annotation file of each video, by its place among those given; None is 0 everywhere.
    prompt: [B, H] int64, what is read of each video before its captions, by a Prompter; None where there is no such.
    """

    features: Tensor
    mask: Tensor
    tokens: Tensor
    caption: Tensor
    position: Tensor
    label_row: Tensor
    label_column: Tensor
    labels: Tensor
    label_weight: Tensor | None = None
    text: Tensor | None = None
    text_row: Tensor | None = None
    origin: Tensor | None = None
    prompt: Tensor | None = None

    def to(self, device: torch.device) -> PackedCaptions:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: part.to(device) for name, part in parts.items() if part is not None})

    def lengths(self) -> Tensor:
        """How many tokens each video's captions have in `tokens`, int64 [B]."""
        return (self.caption >= 0).sum(1)

    def of(self, rows: Tensor) -> PackedCaptions:
        """Some of the videos, by their rows, without padding that is theirs no more; without `text`."""
        length = max(1, int(self.lengths()[rows].max()))
        place = torch.full((len(self.tokens),), -1, dtype=torch.int64, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        of_label = place[self.label_row]
        kept = of_label >= 0
        return PackedCaptions(
            features=self.features[rows],
            mask=self.mask[rows],
            tokens=self.tokens[rows, :length],
            caption=self.caption[rows, :length],
            position=self.position[rows, :length],
            label_row=of_label[kept],
            label_column=self.label_column[kept],
            labels=self.labels[kept],
            label_weight=None if self.label_weight is None else self.label_weight[kept],
            origin=None if self.origin is None else self.origin[rows],
        )


def pack(
    videos: Sequence[np.ndarray], captions: Sequence[Sequence[Sequence[int]]], ignored_label: int | None = None
) -> PackedCaptions:
    """Collates features [T_i, D] and token lists (end token included, none empty) of B videos into one batch.

    ignored_label: a token id that is read but not predicted.
    """
    features, mask = stack_features(videos)
    lengths = [sum(len(tokens) - 1 for tokens in row) for row in captions]
    shape = (len(captions), max(1, *lengths))
    tokens, caption, position = np.zeros(shape, np.int64), np.full(shape, -1), np.zeros(shape, np.int64)
    label_row: list[int] = []
    label_column: list[int] = []
    labels: list[int] = []
    for row, token_lists in enumerate(captions):
        column = 0
        for number, ids in enumerate(token_lists):
            end = column + len(ids) - 1
            tokens[row, column:end] = ids[:-1]
            caption[row, column:end] = number
            position[row, column:end] = range(len(ids) - 1)
            for place, token in zip((-1, *range(column, end)), ids, strict=True):
                if token != ignored_label:
                    label_row.append(row)
                    label_column.append(place)
                    labels.append(token)
            column = end
    as_tensor = torch.from_numpy
    return PackedCaptions(
        features=features,
        mask=mask,
        tokens=as_tensor(tokens),
        caption=as_tensor(caption),
        position=as_tensor(position),
        label_row=torch.tensor(label_row, dtype=torch.int64),
        label_column=torch.tensor(label_column, dtype=torch.int64),
        labels=torch.tensor(labels, dtype=torch.int64),
    )


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
