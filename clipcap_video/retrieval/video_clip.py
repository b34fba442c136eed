"""CLIP's two towers as a part of a larger network that is trained: frames and tokens in, features out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from clipcap_video.encoders.base import Preprocessing
from clipcap_video.encoders.clip import MEAN, STD, build
from clipcap_video.errors import ClipcapError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package warns about pkg_resources, which its user cannot fix
    import clip
    from clip.model import CLIP, ModifiedResNet

TEMPORAL = "visual.conv2.weight"
# What CLIP4Clip's --freeze_layer_num never freezes.
_TOP = ("ln_final.", "text_projection", "logit_scale", "visual.ln_post.", "visual.proj", "visual.conv2.")
_LAYER = re.compile(r"(?:visual\.)?transformer\.resblocks\.(\d+)\.")


class VideoClip(nn.Module):
    """An OpenAI CLIP with a vision transformer.

    temporal: the convolution that cuts three neighbouring frames into patches at once (`--linear_patch 3d`), or
        None where each frame is cut by itself.
    """

    def __init__(self, weights: Mapping[str, Tensor], path: Path, linear_patch: str | None = None) -> None:
        """weights: in OpenAI's names, float or half. linear_patch: "2d" or "3d"; None takes it from the weights.

        A 3d convolution that the weights lack begins as the 2d one at the middle frame and zeros around it.
        Raises ClipcapError when `weights`, read from `path`, are no such CLIP.
        """
        super().__init__()
        state = dict(weights)
        # A ResNet has a weight of that name, too, of four dimensions.
        kernel = state.pop(TEMPORAL) if TEMPORAL in state and state[TEMPORAL].dim() == 5 else None
        network = build(state, path)
        if isinstance(network.visual, ModifiedResNet):
            raise ClipcapError(f"{path} is a CLIP with a ResNet; retrieval trains those with a vision transformer")
        if kernel is not None and kernel.shape[:2] + kernel.shape[3:] != network.visual.conv1.weight.shape:
            raise ClipcapError(f"{path}: {TEMPORAL} has shape {list(kernel.shape)}, which does not fit the patches")
        self.network = network.float().requires_grad_(True)
        if linear_patch is None:
            linear_patch = "2d" if kernel is None else "3d"
        if linear_patch == "3d":
            patch = network.visual.conv1
            visual: nn.Module = network.visual
            visual.conv2 = nn.Conv3d(
                3, patch.out_channels, (3, *patch.kernel_size), (1, *patch.stride), (1, 0, 0), bias=False
            )
            if kernel is None:
                kernel = torch.zeros_like(visual.conv2.weight)
                kernel[:, :, 1] = patch.weight.detach()
            visual.conv2.weight = nn.Parameter(kernel.float().clone())
            # Kept in the checkpoint, for the file's format has it; the temporal kernel took its place.
            patch.weight.requires_grad_(False)
        side = network.visual.input_resolution
        self.pixels = Preprocessing(side, (side, side), "bicubic", MEAN, STD)

    @property
    def linear_patch(self) -> str:
        return "3d" if hasattr(self.network.visual, "conv2") else "2d"

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return int(self.network.text_projection.shape[1])

    def tokenize(self, texts: list[str], max_words: int) -> Tensor:
        """int64 [n, max_words]; longer texts are cut, and their last token is the end."""
        length = min(max_words, self.network.context_length)
        return clip.tokenize(texts, context_length=length, truncate=True)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """int64 [n, L] -> [n, D]."""
        return self.network.encode_text(tokens)

    def encode_frames(self, images: Tensor, mask: Tensor) -> Tensor:
        """Features of preprocessed pictures: uint8 [V, T, 3, S, S], mask [V, T] -> [V, T, D], zero in padding."""
        pixels = self.pixels.normalize(images.flatten(0, 1)).view(images.shape)
        return self.encode_pixels(pixels * mask[:, :, None, None, None], mask)

    def encode_pixels(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """The same from normalised pixels [V, T, 3, S, S], zero in padding. Only real frames take time."""
        visual = self.network.visual
        if self.linear_patch == "3d":
            patches = visual.conv2(pixels.transpose(1, 2)).transpose(1, 2)[mask]  # [n, W, g, g] of the n real frames
        else:
            patches = visual.conv1(pixels[mask])
        tokens = patches.flatten(2).transpose(1, 2)  # [n, g * g, W]
        first = visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        x = visual.ln_pre(torch.cat([first, tokens], dim=1) + visual.positional_embedding.to(tokens.dtype))
        x = visual.transformer(x.transpose(0, 1)).transpose(0, 1)
        real = visual.ln_post(x[:, 0]) @ visual.proj  # [n, D]
        frames = real.new_zeros(*mask.shape, real.shape[-1])
        frames[mask] = real
        return frames

    def freeze(self, layers: int) -> None:
        """Freezes the embeddings and the first `layers` layers of both towers; -1 freezes nothing."""
        if layers < 0:
            return
        for name, parameter in self.network.named_parameters():
            match = _LAYER.match(name)
            if not (name.startswith(_TOP) or (match and int(match[1]) >= layers)):
                parameter.requires_grad_(False)


def first_text_layers(network: CLIP, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Positions [77, W] and the weights `resblocks.*` of the text transformer's first layers, to begin a head."""
    state = network.transformer.state_dict()
    chosen = {name: value.float().clone() for name, value in state.items() if int(name.split(".")[1]) < count}
    return network.positional_embedding.detach().float().clone(), chosen
