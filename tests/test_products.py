"""Products with frozen matrices against torch's own, to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from clipcap_video.products import FrozenLinear, FrozenMatrix, cpu_has_kernels_for, freeze_linear_layers

pytestmark = pytest.mark.skipif(not cpu_has_kernels_for(torch.bfloat16), reason="oneDNN has no bf16 products here")


def _parts(rows: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, 48), (70, 48), (70,)))
    return x.to(dtype), weight, bias


@pytest.mark.parametrize("rows", [1, 5, 40, 333])
@pytest.mark.parametrize("with_bias", [False, True])
def test_numbers_are_those_of_a_linear_layer_under_autocast(rows: int, with_bias: bool) -> None:
    x, weight, bias = _parts(rows)
    used = bias if with_bias else None
    matrix = FrozenMatrix(weight, used, backwards=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = x.clone().requires_grad_()
        expected = F.linear(own, weight, used)
        other = x.clone().requires_grad_()
        found = matrix(other)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    given = torch.randn(expected.shape).bfloat16()
    assert torch.equal(torch.autograd.grad(found, other, given)[0], torch.autograd.grad(expected, own, given)[0])
    with torch.inference_mode():
        assert torch.equal(matrix(x.view(1, rows, 48))[0], expected)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@torch.inference_mode()
def test_a_gelu_behind_it_rounds_once(approximate: str) -> None:
    x, weight, bias = _parts(40, torch.bfloat16)
    matrix = FrozenMatrix(weight, bias, backwards=False)
    matrix.gelu = approximate
    exact = F.gelu(F.linear(x.double(), weight.bfloat16().double(), bias.bfloat16().double()), approximate=approximate)
    torch.testing.assert_close(matrix(x).double(), exact, rtol=2**-7, atol=1e-2)


def test_one_without_an_order_for_gradients_says_so() -> None:
    x, weight, bias = _parts(3)
    out = FrozenMatrix(weight, bias, backwards=False)(x.requires_grad_())
    with pytest.raises(RuntimeError, match="without gradients"):
        out.sum().backward()


def test_linear_layers_of_either_kind_are_exchanged_but_for_what_is_trained() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(8, 6), "conv1d": Conv1D(6, 8), "head": nn.Linear(8, 3)})
    model["trained"] = nn.Linear(8, 6)
    for name in ("linear", "conv1d", "head"):
        model[name].requires_grad_(False)
    x = torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = {name: layer(x) for name, layer in model.items()}
    freeze_linear_layers(model, backwards=True, leave=[model["head"]])
    kinds = {name: type(layer) for name, layer in model.items()}
    assert kinds == {"linear": FrozenLinear, "conv1d": FrozenLinear, "head": nn.Linear, "trained": nn.Linear}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, layer in model.items():
            assert torch.equal(layer(x), expected[name])
