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

from clipcap_video.products import FrozenMatrix

LOGITS_AT_ONCE = 2**25  # 128 MiB in float32
# On a CPU the softmax and its gradient are made of so few rows a core that they stay in its cache.
ROWS_A_CORE = 8
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
    frozen: FrozenMatrix | None = None,
) -> Tensor:
    """Summed cross-entropy (nats, float32) of N labels predicted at rows of R hidden states.

    hidden: [R, E]; weight: [V, E]; bias: [V], -inf for tokens that are never written, which get no part of the
    smoothing; row_of_label, labels: [N] int64, a row may have several labels.
    label_weight: [N], by which each label's part is multiplied. frozen: weight and bias once more, for bf16.
    """
    arguments = (hidden, weight, bias, row_of_label, labels, label_weight, label_smoothing, frozen)
    return _SummedCrossEntropy.apply(*arguments)


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
        frozen: FrozenMatrix | None,
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        frozen = frozen if dtype == torch.bfloat16 else None
        product_weight = weight if frozen is not None else weight.to(dtype)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wanted = wants_hidden or wants_weight or wants_bias
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        total = hidden.new_zeros((), dtype=torch.float32)
        weights = torch.ones_like(labels, dtype=torch.float32) if label_weight is None else label_weight.float()
        # Smoothing goes to the tokens that can be written.
        never = None if bias is None or bool(bias.isfinite().all()) else bias.isneginf()
        words = len(weight) if never is None else len(weight) - int(never.sum())
        size = max(1, LOGITS_AT_ONCE // len(weight))
        strip = ROWS_A_CORE * torch.get_num_threads() if device == "cpu" else size
        with torch.no_grad(), torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), size):
                rows = hidden[start : start + size].to(dtype)
                if frozen is not None:
                    logits = frozen.forth(rows)
                else:
                    logits = F.linear(rows, product_weight, None if bias is None else bias.to(dtype))
                for first in range(0, len(rows), strip):
                    part = logits[first : first + strip]
                    here = start + first
                    inside = (row_of_label >= here) & (row_of_label < here + len(part))
                    places = (row_of_label[inside] - here, labels[inside])
                    log_probs = F.log_softmax(part.float(), dim=-1)
                    worth = weights[inside]
                    loss = -(log_probs[places] * worth).sum()
                    # What the labels of each row weigh together.
                    count = log_probs.new_zeros(len(part)).index_add_(0, places[0], worth)
                    if smoothing > 0:
                        possible = log_probs if never is None else log_probs.masked_fill(never, 0.0)
                        loss = (1 - smoothing) * loss - smoothing * (possible.sum(dim=-1) / words * count).sum()
                        del possible
                    total += loss
                    if not wanted:
                        continue
                    # d loss / d logits = count * softmax - (1 - smoothing) * labels - smoothing * count / words
                    gradient = log_probs.exp_().mul_(count[:, None])
                    if smoothing > 0:
                        share = (smoothing / words * count)[:, None]
                        gradient.sub_(share if never is None else share * ~never)
                    gradient.index_put_(places, (smoothing - 1) * worth, accumulate=True)
                    if grad_bias is not None:
                        grad_bias += gradient.sum(0)
                    part.copy_(gradient)  # in the place of the logits
                if grad_hidden is not None:
                    grad_hidden[start : start + size] = frozen.back(logits) if frozen else logits @ product_weight
                if grad_weight is not None:
                    for first in range(0, len(weight), WORDS_AT_ONCE):
                        stretch = slice(first, first + WORDS_AT_ONCE)
                        grad_weight[stretch] += logits[:, stretch].T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        scaled = [None if gradient is None else gradient.mul_(scale) for gradient in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None)
