"""Low-rank adapters, by their equation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.models.adapters import add_adapters, is_adapter_weight
from clipcap_video.models.language_model import load_language_model

RANK = 4


def test_a_layer_computes_w_x_and_two_over_the_root_of_the_rank_times_b_a_x(tiny_lm: Path) -> None:
    pytest.importorskip("peft", reason="peft (extra lora) is not installed")
    model, _ = load_language_model(str(tiny_lm))
    tokens = torch.tensor([[5, 7, 9]])
    plain = model(tokens).logits.detach()
    add_adapters(model, RANK)
    torch.testing.assert_close(model(tokens).logits, plain, rtol=0, atol=0)  # B is zero: it starts as it was
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learned == {name for name in model.state_dict() if is_adapter_weight(name)}
    assert learned
    assert not any("lm_head" in name for name in learned)
    layer = model.transformer.h[0].mlp.c_fc
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
        x = torch.randn(3, 32)
        expected = layer.base_layer(x) + 2 / RANK**0.5 * x @ a.T @ b.T
        torch.testing.assert_close(layer(x), expected)


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ClipcapError, match=r"--lora_rank needs peft.*pip install 'clipcap-video\[lora\]'"):
        add_adapters(torch.nn.Linear(2, 2), RANK)
