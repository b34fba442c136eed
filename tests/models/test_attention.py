"""Attention of many lanes to one cache, against the formula in float64 and the library's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.integrations import sdpa_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from clipcap_video.models import attention
from tests.prefix_models import build

MODULE = torch.nn.Identity()


def _inputs(
    batch: int, heads: int, count: int, keys: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(batch, heads, length, 16, generator=generator).to(dtype) for length in (count, keys, keys)
    )
    mask = torch.rand(batch, 1, count, keys, generator=generator) < 0.4
    mask[..., 0] = True
    return query, key, value, mask


@pytest.mark.parametrize("scaling", [None, 0.5])
@pytest.mark.parametrize("shape", [(3, 6, 40, 120), (2, 4, 1, 9), (1, 1, 5, 77)])
@torch.inference_mode()
def test_a_step_in_bf16_is_the_formula(shape: tuple[int, int, int, int], scaling: float | None) -> None:
    query, key, value, mask = _inputs(*shape, torch.bfloat16)
    out, _ = attention.attend(MODULE, query, key, value, mask, scaling=scaling)
    scores = query.double() @ key.double().transpose(-1, -2) * (0.25 if scaling is None else scaling)
    expected = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value.double()
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous()
    # Scores of up to 4 have 8 bits, and so have weights and sums.
    torch.testing.assert_close(out.double(), expected.transpose(1, 2), rtol=0.02, atol=0.03)


@torch.inference_mode()
def test_a_video_attends_alike_in_any_batch() -> None:
    query, key, value, mask = _inputs(8, 6, 40, 333, torch.bfloat16)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a lane
    together, _ = attention.attend(MODULE, query, key, value, mask)
    for rows in (slice(0, 1), slice(3, 5), slice(1, 8)):
        alone, _ = attention.attend(MODULE, query[rows], key[rows], value[rows], mask[rows])
        assert torch.equal(alone, together[rows])
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", ["float32", "gradient", "as many queries as keys", "no mask"])
def test_all_else_is_the_librarys(case: str) -> None:
    count = 30 if case == "as many queries as keys" else 5
    query, key, value, mask = _inputs(2, 4, count, 30, torch.float32 if case == "float32" else torch.bfloat16)
    given = None if case == "no mask" else mask
    with torch.set_grad_enabled(case == "gradient"):
        out, _ = attention.attend(MODULE, query, key, value, given, is_causal=False)
        expected, _ = sdpa_attention_forward(MODULE, query, key, value, given, is_causal=False)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("options", [{"softcap": 30.0}, {"position_bias": torch.zeros(1)}], ids=str)
@torch.inference_mode()
def test_what_it_does_not_know_is_left_to_the_library(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, mask = _inputs(2, 4, 5, 30, torch.bfloat16)
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", lambda *given, scaling, **rest: rest)
    assert attention.attend(MODULE, query, key, value, mask, **options) == options
    assert attention.attend(MODULE, query, key, value, mask, softcap=None, dropout=0.0)[1] is None


@pytest.mark.parametrize("key_heads", [4, 2])
def test_dropout_is_drawn_here_and_the_rest_is_the_librarys(key_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, mask = _inputs(2, 4, 5, 30, torch.float32)
    key, value = key[:, :key_heads], value[:, :key_heads]
    monkeypatch.setattr(attention, "kept", lambda like, share: torch.ones_like(like, dtype=torch.bool))
    out, _ = attention.attend(MODULE, query, key, value, mask, dropout=0.2)
    expected = F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True).transpose(1, 2) / 0.8
    torch.testing.assert_close(out, expected)


@torch.no_grad()
def test_language_models_use_it(tiny_lm: Path, tmp_path: Path) -> None:
    language_model = build(tiny_lm).language_model
    assert language_model.config._attn_implementation == attention.NAME
    language_model.config.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
