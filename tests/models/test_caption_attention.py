"""Captions side by side, against attention by the mask of packed sequences and against finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.models.caption_attention import CaptionSlots, attend_in_slots
from clipcap_video.models.dropout import drawing_from
from clipcap_video.models.packing import packed_attention

PREFIX, HEADS, WIDTH = 3, 4, 5
# Lengths of the captions of each video; -1 columns fill up the rest.
VIDEOS = [[2, 4, 1], [3], [1, 1]]


def layout(videos: list[list[int]]) -> tuple[Tensor, Tensor]:
    """caption and position [B, L] as in PackedCaptions."""
    columns = max(sum(lengths) for lengths in videos)
    caption, position = torch.full((len(videos), columns), -1), torch.zeros(len(videos), columns, dtype=torch.int64)
    for row, lengths in enumerate(videos):
        numbers = [(number, place) for number, length in enumerate(lengths) for place in range(length)]
        for column, (number, place) in enumerate(numbers):
            caption[row, column], position[row, column] = number, place
    return caption, position


def inputs(videos: list[list[int]], key_heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """query, key, value, and which tokens are real [B, P + L, 1, 1]."""
    caption, _ = layout(videos)
    length = PREFIX + caption.shape[1]
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(len(videos), length, heads, WIDTH, generator=generator, dtype=dtype).transpose(1, 2)
        for heads in (HEADS, key_heads, key_heads)
    ]
    real = F.pad(caption >= 0, (PREFIX, 0), value=True)[..., None, None]
    return *(part.requires_grad_() for part in parts), real  # type: ignore[return-value]


@pytest.mark.parametrize("key_heads", [HEADS, 2])
@pytest.mark.parametrize("videos", [VIDEOS, [[2, 4, 1]], [[1]]], ids=str)
def test_it_is_attention_by_the_mask(videos: list[list[int]], key_heads: int) -> None:
    caption, position = layout(videos)
    query, key, value, real = inputs(videos, key_heads, torch.float64)
    out = attend_in_slots(query, key, value, CaptionSlots.of(caption, position, PREFIX), 0.7) * real
    mask = packed_attention(caption, position, PREFIX)[:, None]
    plain = F.scaled_dot_product_attention(query, key, value, mask, scale=0.7, enable_gqa=True).transpose(1, 2) * real
    torch.testing.assert_close(out, plain)
    given = torch.randn_like(plain) * real
    found = torch.autograd.grad(out, (query, key, value), given)
    for mine, other in zip(found, torch.autograd.grad(plain, (query, key, value), given), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_finite_differences(dropout: float) -> None:
    caption, position = layout(VIDEOS)
    query, key, value, real = inputs(VIDEOS, HEADS, torch.float64)
    slots = CaptionSlots.of(caption, position, PREFIX)

    def attend(*parts: Tensor) -> Tensor:
        with drawing_from(7):
            return attend_in_slots(*parts, slots, 0.7, dropout) * real  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(attend, (query, key, value))


def test_in_bf16_it_is_near_the_formula() -> None:
    caption, position = layout(VIDEOS)
    *parts, real = inputs(VIDEOS, HEADS, torch.bfloat16)
    out = attend_in_slots(*parts, CaptionSlots.of(caption, position, PREFIX), 0.5) * real  # type: ignore[arg-type]
    mask = packed_attention(caption, position, PREFIX)[:, None]
    exact = F.scaled_dot_product_attention(*(part.double() for part in parts), mask, scale=0.5)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact.transpose(1, 2) * real, atol=0.03, rtol=0.03)


def test_what_is_dropped_is_so_much_and_the_rest_weighs_more() -> None:
    videos = [[8] * 40]
    caption, position = layout(videos)
    query, key, value, _ = inputs(videos, HEADS, torch.float64)
    ones = torch.ones_like(value)
    slots = CaptionSlots.of(caption, position, PREFIX)
    with drawing_from(1):
        out = attend_in_slots(query * 0, key, ones, slots, 1.0, dropout=0.25).detach()
    # Weights are alike, so the first token of the prefix keeps its one weight, times 4 / 3, or nothing.
    assert set(out[0, 0].flatten().tolist()) <= {0.0, 1 / 0.75}
    assert abs(float(out.mean()) - 1) < 0.05


def test_one_long_caption_does_not_pay() -> None:
    assert CaptionSlots.of(*layout([[9] * 20]), PREFIX).pays(PREFIX + 180)
    assert not CaptionSlots.of(*layout([[*[4] * 19, 70]]), PREFIX).pays(PREFIX + 146)
