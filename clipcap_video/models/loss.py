"""Cross-entropy over a large vocabulary without its logits in memory, or computed twice.

The gradient of the logits is known as soon as they are (softmax minus labels), so both are made piece by piece in the
forward pass, and only the gradients of the hidden states and of the weights, which are small, are kept for backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = 2**25  # 128 MiB in float32
# The gradient of the weights is added up in parts of so many tokens, or a second one would be held for a moment.
WORDS_AT_ONCE = 2**13


def summed_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_of_label: Tensor,
    labels: Tensor,
    label_weight: Tensor | None,
    label_smoothing: float,
) -> Tensor:
    """Summed cross-entropy (nats, float32) of N labels predicted at rows of R hidden states.

    hidden: [R, E]; weight: [V, E]; bias: [V], -inf for tokens that are never written, which get no part of the
    smoothing; row_of_label, labels: [N] int64, a row may have several labels.
    label_weight: [N], by which each label's part is multiplied.
    """
    return _SummedCrossEntropy.apply(hidden, weight, bias, row_of_label, labels, label_weight, label_smoothing)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        row_of_label: Tensor,
        labels: Tensor,
        label_weight: Tensor | None,
        smoothing: float,
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        product_weight = weight.to(dtype)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        total = hidden.new_zeros((), dtype=torch.float32)
        weights = torch.ones_like(labels, dtype=torch.float32) if label_weight is None else label_weight.float()
        # Smoothing goes to the tokens that can be written.
        never = None if bias is None or bool(bias.isfinite().all()) else bias.isneginf()
        words = len(weight) if never is None else len(weight) - int(never.sum())
        size = max(1, LOGITS_AT_ONCE // len(weight))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), size):
                rows = hidden[start : start + size].to(dtype)
                inside = (row_of_label >= start) & (row_of_label < start + size)
                places = (row_of_label[inside] - start, labels[inside])
                logits = F.linear(rows, product_weight, None if bias is None else bias.to(dtype)).float()
                log_probs = F.log_softmax(logits, dim=-1)
                del logits
                worth = weights[inside]
                loss = -(log_probs[places] * worth).sum()
                count = log_probs.new_zeros(len(rows)).index_add_(0, places[0], worth)  # weight of each row's labels
                if smoothing > 0:
                    possible = log_probs if never is None else log_probs.masked_fill(never, 0.0)
                    loss = (1 - smoothing) * loss - smoothing * (possible.sum(dim=-1) / words * count).sum()
                    del possible
                total += loss
                if grad_hidden is None and grad_weight is None and grad_bias is None:
                    continue
                # d loss / d logits = count * softmax - (1 - smoothing) * labels - smoothing * count / words
                gradient = log_probs.exp_().mul_(count[:, None])
                if smoothing > 0:
                    share = (smoothing / words * count)[:, None]
                    gradient.sub_(share if never is None else share * ~never)
                gradient.index_put_(places, (smoothing - 1) * worth, accumulate=True)
                product_gradient = gradient.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + size] = product_gradient @ product_weight
                if grad_weight is not None:
                    for first in range(0, len(weight), WORDS_AT_ONCE):
                        part = slice(first, first + WORDS_AT_ONCE)
                        grad_weight[part] += product_gradient[:, part].T @ rows
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        scaled = [None if gradient is None else gradient.mul_(scale) for gradient in ctx.saved_tensors]
        return (*scaled, None, None, None, None)
