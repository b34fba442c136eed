"""The attention of a language model on a CPU, in the place of the library's fused kernel.

In training, captions are packed: see `caption_attention.py`. When captions are written, few queries look at many keys:
all lanes of a video share one row of the cache. For those the kernel for bf16 takes twice as long as its two products
one after the other, which keep the scores in bf16 between them as the plain attention of transformers does.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from clipcap_video.models.caption_attention import CaptionSlots, attend_in_slots
from clipcap_video.models.dropout import kept
from clipcap_video.models.packing import PackedCaptions

NAME = "sdpa_or_products"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    caption_slots: CaptionSlots | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query: [B, H, N, D]; key, value: [B, H, S, D]; attention_mask: [B, 1, N, S] bool -> [B, N, H, D].

    caption_slots: of packed captions, which they are attended in where that is quicker than by the mask.
    """
    unusual = options.get("softcap") or options.get("position_bias") is not None
    if caption_slots is not None and not unusual and caption_slots.pays(query.shape[2]):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        dropout = options.get("dropout", 0.0)
        return attend_in_slots(query, key, value, caption_slots, scale, dropout), None
    if options.get("dropout") and attention_mask is not None and query.device.type == "cpu" and not unusual:
        return _with_dropout(query, key, value, attention_mask, scaling, options["dropout"]), None
    plain = not unusual and not options.get("dropout")
    if attention_mask is None or not plain or not _by_products(query, key, attention_mask):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    batch, heads, count, width = query.shape
    hidden = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, float("-inf"))
    scores = torch.baddbmm(
        hidden.expand(-1, heads, -1, -1).flatten(0, 1),
        query.flatten(0, 1),
        key.flatten(0, 1).contiguous().transpose(1, 2),  # which bmm copies anyway, element by element
        alpha=width**-0.5 if scaling is None else scaling,
    )
    weights = scores.float().softmax(-1).to(value.dtype)
    out = torch.bmm(weights, value.flatten(0, 1)).view(batch, heads, count, width)
    return out.transpose(1, 2).contiguous(), None


def of_packed(language_model: Any, batch: PackedCaptions, prefix: int) -> dict[str, Any]:
    """What a language model is given on a CPU, beside a mask, so that packed captions are attended in slots."""
    parameters = inspect.signature(language_model.base_model.forward).parameters.values()
    # Those that take any option pass it on to their layers' attention.
    if batch.tokens.device.type != "cpu" or not any(one.kind is one.VAR_KEYWORD for one in parameters):
        return {}
    return {"caption_slots": CaptionSlots.of(batch.caption, batch.position, prefix)}


def _with_dropout(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, share: float
) -> Tensor:
    """What the library gives, with weights dropped as `dropout.kept` draws them."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, 1) if repeats > 1 else part for part in (key, value))
    scores = (query @ key.transpose(2, 3)).float() * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    weights = (weights * kept(weights, share) / (1 - share)).to(value.dtype)
    return (weights @ value).transpose(1, 2)


def _by_products(query: Tensor, key: Tensor, mask: Tensor) -> bool:
    """Whether it is a step of decoding, in bf16 on a CPU, of a model whose heads have keys of their own."""
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and mask.dtype == torch.bool
        and query.shape[2] < key.shape[2]
        and query.shape[1] == key.shape[1]
        and not torch.is_grad_enabled()
    )


def use_for(language_model: Any) -> None:
    """Lets a language model that uses `sdpa` attend by `attend`."""
    # A second of imports, which a captioner without a language model does not wait for.
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    language_model.set_attn_implementation(NAME)
