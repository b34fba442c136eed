"""The transformer's attention, by its definition."""

from __future__ import annotations

import torch

from clipcap_video.models.mapping.transformer import Attention, largest_divisor


def test_heads_divide_the_width() -> None:
    assert [largest_divisor(width, 8) for width in (768, 576, 30, 7, 13)] == [8, 8, 6, 7, 1]


def test_attention_by_pytorch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3, 0.0), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.to_queries.weight, ours.to_keys_values.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(ours.project.state_dict())
    x, y = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    expected, _ = theirs(x, y, y, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, y, mask), expected)
    expected, _ = theirs(x, x, x)
    torch.testing.assert_close(ours(x, None, None), expected)
