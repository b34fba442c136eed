"""Attention of packed captions on a CPU: each caption against the prefix of its video and against itself, alone.

In one sequence a caption's tokens would be held against those of all other captions of the video, nine tenths of which
the mask then hides. Here captions lie side by side: with C captions of at most M tokens behind a prefix of P a video
takes C * M * (P + M) scores in the place of (P + L) ** 2. Products, softmax and gradient are written out, for each is
too small for a fused kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clipcap_video.models.dropout import kept


@dataclass(frozen=True)
class CaptionSlots:
    """Where the tokens of B packed sequences [B, P + L] lie when every caption has M slots of its own.

    captions: C, most of a video; length: M, tokens of the longest.
    token: [B * C * M] int64, which of the B * (P + L) rows is in each slot; any where it is empty.
    slot: [B * L] int64, the slot of each token; any for padding.
    empty, padding: int64, those slots and those of the B * L tokens that are nobody's.
    barrier: [M, P + M] float32, -inf where a token of a caption must not see another, else 0.
    """

    prefix: int
    captions: int
    length: int
    token: Tensor
    slot: Tensor
    empty: Tensor
    padding: Tensor
    barrier: Tensor

    @classmethod
    def of(cls, caption: Tensor, position: Tensor, prefix: int) -> CaptionSlots:
        """caption, position: [B, L] as in PackedCaptions; prefix: P."""
        batch, columns = caption.shape
        captions, length = max(1, int(caption.max()) + 1), int(position.max()) + 1
        video = torch.arange(batch)[:, None]
        slot = (video * captions + caption.clamp(min=0)) * length + position
        row = video * (prefix + columns) + prefix + torch.arange(columns)
        token = torch.zeros(batch * captions * length, dtype=torch.int64)
        empty = torch.ones(len(token), dtype=torch.bool)
        real = caption >= 0
        token[slot[real]] = row[real]
        empty[slot[real]] = False
        empty, padding = empty.nonzero().flatten(), (~real).flatten().nonzero().flatten()
        barrier = torch.cat([torch.zeros(length, prefix), _barrier(length)], dim=1)
        return cls(prefix, captions, length, token, slot.flatten(), empty, padding, barrier)

    def pays(self, rows: int) -> bool:
        """Whether fewer scores are computed than among all `rows` of a sequence: one long caption may take most."""
        return 2 * self.captions * self.length * (self.prefix + self.length) < rows**2


def attend_in_slots(
    query: Tensor, key: Tensor, value: Tensor, slots: CaptionSlots, scale: float, dropout: float = 0.0
) -> Tensor:
    """query: [B, H, P + L, D]; key, value: [B, H or fewer, P + L, D] -> [B, P + L, H, D], zero at padding.

    dropout: of the attention weights.
    """
    # Rotary positions leave queries and keys in float32 where values are of lower precision.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if key.shape[1] != query.shape[1]:  # heads that share keys
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    return _InSlots.apply(query, key, value, slots, scale, dropout)


class _InSlots(torch.autograd.Function):
    """Names that end in p are of the prefix, those in o of the captions' own tokens."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, slots: CaptionSlots, scale: float, dropout: float
    ) -> Tensor:
        batch, heads, rows, width = query.shape
        count, captions, length = slots.prefix, slots.captions, slots.length
        whole, own = (batch * heads, captions * length, -1), (batch * heads * captions, length, -1)
        q, k, v = (_to_slots(x.transpose(1, 2), slots, batch) for x in (query, key, value))  # [B * H, C * M, D]
        qp, kp, vp = (x[:, :, :count].reshape(batch * heads, count, width) for x in (query, key, value))

        exact = torch.promote_types(query.dtype, torch.float32)
        scores = query.new_empty(batch * heads, captions * length, count + length, dtype=exact)
        scores[..., :count] = torch.bmm(q, kp.transpose(1, 2))
        scores[..., count:] = torch.bmm(q.view(own), k.view(own).transpose(1, 2)).view(whole)
        scores.mul_(scale).view(-1, length, count + length).add_(slots.barrier)
        weights, stay = _softmax(scores, dropout)
        used = _dropped(weights, stay, dropout).to(query.dtype)
        wp, wo = used[..., :count].contiguous(), used[..., count:].contiguous()
        out = torch.bmm(wp, vp) + torch.bmm(wo.view(own), v.view(own)).view(whole)

        scores = torch.bmm(qp, kp.transpose(1, 2)).to(exact).mul_(scale)
        first, stay_first = _softmax(scores.add_(_barrier(count)), dropout)
        out_first = torch.bmm(_dropped(first, stay_first, dropout).to(query.dtype), vp)

        ctx.save_for_backward(q, k, v, qp, kp, vp, weights.to(query.dtype), first.to(query.dtype), stay, stay_first)
        ctx.slots, ctx.scale, ctx.dropout, ctx.rows = slots, scale, dropout, rows
        return _joined(out_first, out, slots, batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, qp, kp, vp, weights, first, stay, stay_first = ctx.saved_tensors
        slots, scale, dropout = ctx.slots, ctx.scale, ctx.dropout
        count, captions, length = slots.prefix, slots.captions, slots.length
        (gradient,) = grad_outputs  # [B, P + L, H, D]
        batch, _, heads, width = gradient.shape
        whole, own = (batch * heads, captions * length, -1), (batch * heads * captions, length, -1)
        given = _to_slots(gradient, slots, batch, clear=True)
        given_first = gradient[:, :count].transpose(1, 2).reshape(batch * heads, count, width)

        used = _dropped(weights, stay, dropout)
        wp, wo = used[..., :count].contiguous(), used[..., count:].contiguous().view(own)
        of_weights = torch.cat(
            [
                torch.bmm(given, vp.transpose(1, 2)),
                torch.bmm(given.view(own), v.view(own).transpose(1, 2)).view(whole),
            ],
            dim=-1,
        )
        of_scores = _softmax_backward(_dropped(of_weights, stay, dropout), weights, scale)
        sp, so = of_scores[..., :count].contiguous(), of_scores[..., count:].contiguous().view(own)
        dq = torch.bmm(sp, kp) + torch.bmm(so, k.view(own)).view(whole)
        dk = torch.bmm(so.transpose(1, 2), q.view(own)).view(whole)
        dv = torch.bmm(wo.transpose(1, 2), given.view(own)).view(whole)

        of_weights = _dropped(torch.bmm(given_first, vp.transpose(1, 2)), stay_first, dropout)
        of_scores = _softmax_backward(of_weights, first, scale)
        dqp = torch.bmm(of_scores, kp)
        dkp = torch.bmm(of_scores.transpose(1, 2), qp) + torch.bmm(sp.transpose(1, 2), q)
        used_first = _dropped(first, stay_first, dropout)
        dvp = torch.bmm(used_first.transpose(1, 2), given_first) + torch.bmm(wp.transpose(1, 2), given)
        pairs = ((dqp, dq), (dkp, dk), (dvp, dv))
        return (*(_joined(*pair, slots, batch).transpose(1, 2) for pair in pairs), None, None, None)


def _to_slots(x: Tensor, slots: CaptionSlots, batch: int, clear: bool = False) -> Tensor:
    """[B, N, H, D] -> [B * H, C * M, D]; clear: zeros where a slot is empty."""
    _, rows, heads, width = x.shape
    taken = x.reshape(batch * rows, heads, width).index_select(0, slots.token)
    if clear:
        taken.index_fill_(0, slots.empty, 0.0)
    return taken.view(batch, -1, heads, width).transpose(1, 2).reshape(batch * heads, -1, width).contiguous()


def _joined(first: Tensor, others: Tensor, slots: CaptionSlots, batch: int) -> Tensor:
    """The prefix's [B * H, P, D] and the captions' [B * H, C * M, D] -> [B, P + L, H, D]."""
    width = first.shape[-1]
    first = first.view(batch, -1, slots.prefix, width).transpose(1, 2)
    in_slots = others.view(batch, -1, slots.captions * slots.length, width).transpose(1, 2)
    tokens = in_slots.reshape(-1, in_slots.shape[2], width).index_select(0, slots.slot)
    tokens.index_fill_(0, slots.padding, 0.0)
    return torch.cat([first, tokens.view(batch, -1, *tokens.shape[1:])], dim=1)


def _barrier(length: int) -> Tensor:
    """[N, N]: -inf for what comes later."""
    return torch.full((length, length), float("-inf")).triu(1)


def _softmax(scores: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
    """Weights, and which of them stay."""
    weights = scores.softmax(-1)
    return weights, kept(weights, dropout) if dropout else None


def _dropped(x: Tensor, stay: Tensor | None, dropout: float) -> Tensor:
    return x if stay is None else x * stay / (1 - dropout)


def _softmax_backward(of_weights: Tensor, weights: Tensor, scale: float) -> Tensor:
    """The gradient of what became weights by a softmax, in their precision."""
    exact = torch.promote_types(weights.dtype, torch.float32)
    before = torch._softmax_backward_data(of_weights.to(exact), weights.to(exact), -1, exact)
    return before.mul_(scale).to(weights.dtype)
