"""Vision transformers made faster: every block as few large matrix products, weights cast once.

Patches and blocks of a network that its own library built are exchanged; everything else stays. One product makes
queries, keys and values; QuickGELU, x * sigmoid(1.702 x), becomes SiLU in place, its factor moved into the weights
around it; the factors of a layer scale move into the products that they follow. In bf16 on two cores ViT-B/32 goes
from half of the speed of bare matrix products to four fifths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.products import cpu_has_kernels_for, freeze_linear_layers

QUICK_GELU = 1.702


class FusedBlock(nn.Module):
    """A pre-norm transformer block for inference, without mask: [n, S, E] -> [n, S, E].

    norms, projections (query, key, value), out, up, down: layers of the block that it replaces, which it copies.
    scales: what its two branches are multiplied by, [E] each, or None. activation: a value of ACTIVATIONS.
    """

    def __init__(
        self,
        norms: Sequence[nn.LayerNorm],
        projections: Sequence[nn.Linear],
        out: nn.Linear,
        up: nn.Linear,
        down: nn.Linear,
        heads: int,
        activation: str,
        scales: Sequence[Tensor | None] = (None, None),
    ) -> None:
        super().__init__()
        self.heads = heads
        self.activation = activation
        self.norm1, self.norm2 = (_plain_norm(norm) for norm in norms)
        self.qkv = _linear(
            torch.cat([layer.weight for layer in projections]), torch.cat([_bias(layer) for layer in projections])
        )
        self.out = _scaled_linear(out, scales[0])
        self.up = _linear(up.weight, _bias(up))
        self.down = _scaled_linear(down, scales[1])
        if activation == "quick_gelu":
            self.up = _linear(up.weight * QUICK_GELU, _bias(up) * QUICK_GELU)
            self.down.weight.data.div_(QUICK_GELU)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        # What libraries pass beside x are masks that hide nothing, for all frames are of one size.
        x = x.to(self.norm1.weight.dtype)
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [n, H, S, E / H] each
        seen = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self._activate(self.up(self.norm2(x))))

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "quick_gelu":
            return F.silu(x, inplace=True)
        return F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none")


class FusedTransformer(nn.Module):
    """The blocks of OpenAI's CLIP, which pass [S, n, E] around."""

    def __init__(self, blocks: list[FusedBlock]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x.transpose(0, 1).contiguous()).transpose(0, 1)


class PatchProjection(nn.Module):
    """A convolution whose kernels stand side by side, as one matrix product: [n, 3, H, W] -> [n, E, H / S, W / S]."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.size = convolution.kernel_size
        self.weight = nn.Parameter(convolution.weight.detach().clone(), requires_grad=False)
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone(), False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = height // self.size[0], width // self.size[1]
        patches = x[..., : rows * self.size[0], : columns * self.size[1]].to(self.weight.dtype)
        patches = patches.reshape(batch, channels, rows, self.size[0], columns, self.size[1])
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)  # [n, patches, 3 * S * S]
        return F.linear(patches, self.weight.flatten(1), self.bias).transpose(1, 2).reshape(batch, -1, rows, columns)


def fuse_openai_tower(tower: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Exchanges patches and blocks of an OpenAI vision tower for fused ones, in place; blocks in `dtype`."""
    # In float32: CLIP takes the dtype of its text side from here, and texts are encoded under autocast as before.
    tower.conv1 = PatchProjection(tower.conv1)
    blocks = [_ready(_openai_block(block), dtype, device) for block in tower.transformer.resblocks]
    tower.transformer = FusedTransformer(blocks)


def fuse_huggingface_tower(tower: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """The same for a CLIP, SigLIP or DINOv2 vision tower of transformers.

    Blocks of another build (a gated product, another activation, other names in another release) stay as they are.
    """
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size == child.stride and not _pads(child):
                setattr(parent, name, PatchProjection(child).to(dtype))
        layers = getattr(parent, "layers", None) or getattr(parent, "layer", None)
        if isinstance(layers, nn.ModuleList):
            for number, layer in enumerate(layers):
                block = _huggingface_block(layer)
                if block is not None:
                    layers[number] = _ready(block, dtype, device)


def _ready(block: FusedBlock, dtype: torch.dtype, device: torch.device) -> FusedBlock:
    block = block.to(dtype)
    if device.type == "cpu" and dtype == torch.bfloat16 and cpu_has_kernels_for(dtype):
        freeze_linear_layers(block, backwards=False)
    return block


def _openai_block(block: Any) -> FusedBlock:
    width = block.attn.embed_dim
    weights, biases = block.attn.in_proj_weight.split(width), block.attn.in_proj_bias.split(width)
    projections = [_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    up, down, heads = block.mlp.c_fc, block.mlp.c_proj, block.attn.num_heads
    return FusedBlock((block.ln_1, block.ln_2), projections, block.attn.out_proj, up, down, heads, "quick_gelu")


def _pads(convolution: nn.Conv2d) -> bool:
    return convolution.padding not in ("valid", (0, 0))


def _huggingface_block(layer: Any) -> FusedBlock | None:
    attention = _first(layer, "self_attn", "attention")
    mlp = getattr(layer, "mlp", None)
    heads = _first(attention, "num_heads", "num_attention_heads")
    out = _first(attention, "out_proj", "o_proj")
    norms = (_first(layer, "layer_norm1", "norm1"), _first(layer, "layer_norm2", "norm2"))
    projections = [getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    activation = ACTIVATIONS.get(type(getattr(mlp, "activation_fn", None)).__name__)
    up, down = getattr(mlp, "fc1", None), getattr(mlp, "fc2", None)
    if any(part is None for part in (heads, out, activation, up, down, *norms, *projections)):
        return None
    scales = [getattr(getattr(layer, f"layer_scale{branch}", None), "lambda1", None) for branch in (1, 2)]
    return FusedBlock(norms, projections, out, up, down, heads, activation, scales)  # type: ignore[arg-type]


def _first(module: Any, *names: str) -> Any:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


ACTIVATIONS = {
    "QuickGELUActivation": "quick_gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
}


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(1, 1, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    layer.out_features, layer.in_features = weight.shape
    return layer


def _scaled_linear(layer: nn.Linear, scale: Tensor | None) -> nn.Linear:
    if scale is None:
        return _linear(layer.weight, _bias(layer))
    return _linear(layer.weight * scale[:, None], _bias(layer) * scale)


def _plain_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Without the casts of OpenAI's: torch's kernels add up in float32 by themselves."""
    plain = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    plain.load_state_dict(norm.state_dict())
    return plain
