import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention

from clipcap_video.models.packed_mask import block_mask, dense_mask, packed_attention, packed_rule, suits_blocks


def packed(lengths_of_rows):
    """caption and position of rows of captions, padded."""
    longest = max(map(sum, lengths_of_rows))
    caption = torch.full((len(lengths_of_rows), longest), -1)
    position = torch.zeros_like(caption)
    for row, lengths in enumerate(lengths_of_rows):
        start = 0
        for number, length in enumerate(lengths):
            caption[row, start : start + length] = number
            position[row, start : start + length] = torch.arange(length)
            start += length
    return caption, position


@pytest.mark.parametrize("prefix", [1, 5])
@pytest.mark.parametrize("rows", [[[3, 2, 4]], [[1], [4, 4, 1], [2, 3]]])
def test_the_rule_is_the_matrix(prefix, rows):
    caption, position = packed(rows)
    length = prefix + caption.shape[1]
    rule = create_mask(packed_rule(caption, position, prefix), len(rows), 1, length, length, device="cpu")
    assert torch.equal(rule, dense_mask(caption, position, prefix))


def test_block_attention_computes_the_same():
    caption, position = packed([[40, 30, 60], [100]])
    prefix = 10
    length = prefix + caption.shape[1]
    query, key, value = torch.randn(3, 2, 1, length, 16).unbind()
    ours = flex_attention(query, key, value, block_mask=block_mask(caption, position, prefix))
    mask = packed_attention(caption, position, prefix)[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_cpu_reads_the_matrix():
    class Model:
        training = False
        config = object()

    assert not suits_blocks(Model(), torch.device("cpu"), 10_000)
