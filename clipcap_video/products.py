"""Products with frozen matrices in bf16 on a CPU, brought once into the order in which oneDNN reads them.

An ordinary product brings its matrix into that order every time, which is an eighth of the time of one with hundreds of
rows and half of the time of one with a few. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@cache
def cpu_has_kernels_for(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's fused kernels, and the processor has numbers of this kind."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class FrozenMatrix:
    """x [..., K] -> x @ weight.T + bias, bf16 [..., N], for a weight [N, K] and a bias [N] that nobody trains.

    backwards: whether gradients have to pass through it, which needs the matrix in a second order.
    gelu: "tanh" or "none" for a GELU behind it of that approximation, in the same pass; then there is no gradient.
    """

    gelu: str | None = None

    def __init__(self, weight: Tensor, bias: Tensor | None, backwards: bool) -> None:
        weight = weight.detach().bfloat16()
        self._bias = None if bias is None else bias.detach().bfloat16()
        self._forth = _ordered(weight)
        self._back = _ordered(weight.T) if backwards else None

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Through.apply(x, self)
        return self.forth(x)

    def forth(self, x: Tensor) -> Tensor:
        """The same without a gradient."""
        return _product(x.bfloat16(), self._forth, self._bias, self.gelu)

    def back(self, gradient: Tensor) -> Tensor:
        """gradient [..., N] of the product -> that of x, bf16 [..., K]."""
        if self._back is None:
            raise RuntimeError("this matrix was made for products without gradients")
        return _product(gradient.bfloat16(), self._back)


def _ordered(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def _product(x: Tensor, ordered: Tensor, bias: Tensor | None = None, gelu: str | None = None) -> Tensor:
    behind: tuple[str, list[float], str] = ("none", [], "") if gelu is None else ("gelu", [], gelu)
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), ordered, bias, *behind)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: FrozenMatrix) -> Tensor:
        ctx.matrix, ctx.dtype = matrix, x.dtype
        return matrix.forth(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.back(grad_outputs[0]).to(ctx.dtype), None


class FrozenLinear(nn.Module):
    """A FrozenMatrix in the place of a linear layer, whose weight and bias it keeps under their names, to be saved.

    backwards: gradients pass through it, as in training, which saves nothing of a frozen model; so it keeps neither.
    """

    def __init__(self, layer: Any, backwards: bool) -> None:
        super().__init__()
        bias = getattr(layer, "bias", None)
        self.matrix = FrozenMatrix(_weight_of(layer), bias, backwards)
        if not backwards:
            layer.weight.data = layer.weight.data.bfloat16()
            self.weight, self.bias = layer.weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix(x)


def freeze_linear_layers(model: nn.Module, backwards: bool, leave: Collection[nn.Module] = ()) -> None:
    """Exchanges the linear layers of a model for FrozenLinear, but for those in `leave`.

    backwards: gradients pass through them, and those that are trained stay.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            weight = _weight_of(layer)
            if weight is not None and layer not in leave and not (backwards and weight.requires_grad):
                setattr(parent, name, FrozenLinear(layer, backwards))
        up, act = getattr(parent, "c_fc", None), getattr(parent, "act", None)  # of GPT-2
        if isinstance(up, FrozenLinear) and isinstance(act, nn.GELU) and not backwards:
            up.matrix.gelu, parent.act = act.approximate, nn.Identity()


def _weight_of(layer: Any) -> Any:
    """[N, K] of a linear layer; GPT-2's lie transposed. None for anything else."""
    if type(layer) is nn.Linear:
        return layer.weight
    return layer.weight.T if type(layer).__name__ == "Conv1D" else None
