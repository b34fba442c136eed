"""The loss behind a language model on a CPU: a few videos at a time, as many pieces side by side as cores.

What a language model makes of a video depends on no other video of the batch. So no core waits for another within an
operation, short captions are not padded to long ones, and only what a piece needs for its gradient is in memory. Where
little or nothing of the model is trained, pieces follow from the batch alone: any number of cores gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clipcap_video.devices import in_lanes
from clipcap_video.models.dropout import drawing_from
from clipcap_video.models.packing import PackedCaptions

# Of a piece, prefix included: enough for large products.
TOKENS = 400
# Bytes of the gradients that cores have of a language model, each its own: four of GPT-2's 124 million weights.
MOST_GRADIENTS = 2 << 30

# The summed loss (nats) of videos behind their prefix [b, P, E].
SummedLoss = Callable[[Tensor, PackedCaptions], Tensor]


def lanes_pay(device: torch.device, trained: Sequence[nn.Parameter], frozen: bool) -> bool:
    """Whether cores should read videos of their own. trained: weights of the language model that are; frozen: all or
    nearly all of it is not. Each core has a gradient of all that is trained, so with many cores a large model is
    trained by all of them at once."""
    cores = torch.get_num_threads()
    size = cores * sum(weight.numel() * weight.element_size() for weight in trained)
    return device.type == "cpu" and (frozen or (cores > 1 and size <= MOST_GRADIENTS))


def loss_in_lanes(
    loss_of: SummedLoss, prefix: Tensor, batch: PackedCaptions, weights: Sequence[nn.Parameter], pieces: int | None
) -> Tensor:
    """What `loss_of(prefix, batch)` is, in pieces; its gradient goes to the prefix [B, P, E] and to `weights`.

    pieces: how many, alike in length, each with gradients of its own in memory; None is as many as TOKENS says.
    """
    return _LossInLanes.apply(prefix, batch, loss_of, pieces, *weights)


class _LossInLanes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prefix: Tensor, batch: PackedCaptions, loss_of: SummedLoss, pieces: int | None, *weights: Tensor
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        autocast = partial(
            torch.autocast, "cpu", dtype=torch.get_autocast_dtype("cpu"), enabled=torch.is_autocast_enabled("cpu")
        )

        def work(rows: Tensor, seed: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            own = prefix[rows].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted), autocast(), drawing_from(seed):
                loss = loss_of(own, batch.of(rows))
            gradients = torch.autograd.grad(loss, [own, *weights], allow_unused=True) if wanted else ()
            return loss.detach(), gradients

        parts = _pieces(batch, prefix.shape[1]) if pieces is None else _alike(batch, prefix.shape[1], pieces)
        seed = int(torch.randint(2**62, ()))  # of what is dropped, if anything is
        done = [future.result() for future in in_lanes([partial(work, rows, seed + k) for k, rows in enumerate(parts)])]
        if wanted:
            gradient = torch.empty_like(prefix)
            for rows, (_, gradients) in zip(parts, done, strict=True):
                assert gradients[0] is not None
                gradient[rows] = gradients[0]
            summed = [_sum([gradients[place] for _, gradients in done]) for place in range(1, len(weights) + 1)]
            ctx.save_for_backward(gradient, *summed)
        return torch.stack([loss for loss, _ in done]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        first, *others = (None if gradient is None else gradient.mul_(scale) for gradient in ctx.saved_tensors)
        return first, None, None, None, *others


def _sum(gradients: list[Tensor | None]) -> Tensor | None:
    """In their order, in the place of the first."""
    there = [gradient for gradient in gradients if gradient is not None]
    for gradient in there[1:]:
        there[0].add_(gradient)
    return there[0] if there else None


def _alike(batch: PackedCaptions, prefix_length: int, count: int) -> list[Tensor]:
    """Rows of the batch in at most `count` parts of about as many tokens."""
    lengths = (batch.lengths() + prefix_length).tolist()
    parts: list[list[int]] = [[] for _ in range(min(count, len(lengths)))]
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        min(parts, key=lambda part: sum(lengths[other] for other in part)).append(row)
    return [torch.tensor(sorted(rows)) for rows in parts]


def _pieces(batch: PackedCaptions, prefix_length: int) -> list[Tensor]:
    """Rows of the batch, those of like length together, longest first."""
    lengths = (batch.lengths() + prefix_length).tolist()
    pieces: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if pieces and lengths[pieces[-1][0]] * (len(pieces[-1]) + 1) <= TOKENS:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return [torch.tensor(rows) for rows in pieces]
