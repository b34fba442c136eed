"""The batches of all processes together, with gradient, so that each text meets the videos of every process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def process_count() -> int:
    """How many processes train together; 1 without any distributed set-up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in order of rank: [B, ...] -> [sum of the B, ...], whose B may differ.

    What follows must be the same function in every process, and gradients be averaged over them, as DDP does: then
    they are those of one process with the whole batch.
    """
    if process_count() == 1:
        return tensor
    return _Gather.apply(tensor) if tensor.is_floating_point() else _gather(tensor)[0]


def _gather(tensor: Tensor) -> tuple[Tensor, list[int]]:
    sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    counts = [int(size) for size in sizes]
    longest = max(counts)
    # Processes exchange tensors of one shape; the rows added here are cut off again. bool is not for every backend.
    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    sent = F.pad(sent, (0, 0) * (sent.dim() - 1) + (0, longest - len(sent))).contiguous()
    parts = [torch.empty_like(sent) for _ in counts]
    dist.all_gather(parts, sent)
    rows = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return rows.to(tensor.dtype), counts


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        rows, counts = _gather(tensor)
        rank = dist.get_rank()
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process computes the same loss, so the sum of their gradients is a multiple of one's own.
        return gradients[0][ctx.own] * dist.get_world_size()
