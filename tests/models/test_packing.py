"""Several captions in one row: as if each had a row of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipcap_video.models.mapping import MAPPING_NETWORKS
from clipcap_video.models.packing import pack, packed_attention
from tests.prefix_models import batch_of, build, row_a_caption


@pytest.mark.parametrize("llama", [False, True], ids=["gpt2", "llama"])
@pytest.mark.parametrize("mapping_type", list(MAPPING_NETWORKS))
def test_packed_loss_and_gradients_equal_one_row_a_caption(tiny_lm: Path, mapping_type: str, llama: bool) -> None:
    model = build(tiny_lm, mapping_type, only_prefix=False, llama=llama)
    videos, captions = batch_of(model, [0, 5, 3])
    results = []
    for compute in (lambda: model(pack(videos, captions)), lambda: row_a_caption(model, videos, captions)):
        model.zero_grad()
        loss = compute()
        loss.backward()
        results.append(
            (
                loss.detach(),
                {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
            )
        )
    (packed, packed_gradients), (plain, plain_gradients) = results
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
    assert packed_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_packed_attention_by_definition() -> None:
    caption = torch.tensor([[0, 0, 1, -1]])
    position = torch.tensor([[0, 1, 0, 0]])
    allowed = packed_attention(caption, position, 2)[0].int().tolist()
    assert allowed == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_padding_is_never_a_label(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    videos, captions = batch_of(model, [0, 1, 2])
    batch = pack(videos, captions)
    flat = [token for own in captions for tokens in own for token in tokens]
    assert batch.labels.tolist() == flat
    read = batch.tokens[batch.caption >= 0].tolist()
    assert read == [token for own in captions for tokens in own for token in tokens[:-1]]
