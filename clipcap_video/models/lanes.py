"""The loss behind a frozen language model on a CPU: a few videos at a time, as many pieces side by side as cores.

What a frozen model makes of a video depends on no other video of the batch, and the only gradient is that of the
prefix. So no core waits for another within an operation, short captions are not padded to long ones, and only what a
piece needs for its gradient is in memory. Pieces follow from the batch alone: any number of cores gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clipcap_video.devices import in_lanes
from clipcap_video.models.packing import PackedCaptions

# Of a piece, prefix included: enough for large products.
TOKENS = 400

# The summed loss (nats) of videos behind their prefix [b, P, E].
SummedLoss = Callable[[Tensor, PackedCaptions], Tensor]


def loss_in_lanes(loss_of: SummedLoss, prefix: Tensor, batch: PackedCaptions) -> Tensor:
    """What `loss_of(prefix, batch)` is, in pieces; its gradient goes to the prefix [B, P, E] and to nothing else."""
    return _LossInLanes.apply(prefix, batch, loss_of)


class _LossInLanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prefix: Tensor, batch: PackedCaptions, loss_of: SummedLoss) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        autocast = partial(
            torch.autocast, "cpu", dtype=torch.get_autocast_dtype("cpu"), enabled=torch.is_autocast_enabled("cpu")
        )

        def work(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            own = prefix[rows].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted), autocast():
                loss = loss_of(own, batch.of(rows))
            return loss.detach(), torch.autograd.grad(loss, own)[0] if wanted else None

        pieces = _pieces(batch, prefix.shape[1])
        done = [future.result() for future in in_lanes([partial(work, rows) for rows in pieces])]
        gradient = torch.empty_like(prefix) if wanted else None
        for rows, (_, part) in zip(pieces, done, strict=True):
            if gradient is not None and part is not None:
                gradient[rows] = part
        ctx.save_for_backward(gradient)
        return torch.stack([loss for loss, _ in done]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,), (scale,) = ctx.saved_tensors, grad_outputs
        return gradient * scale, None, None


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
