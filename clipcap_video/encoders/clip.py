"""OpenAI's CLIP: every published model by name, or a file of weights in the same format."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from clipcap_video.devices import dtype_of
from clipcap_video.encoders.base import NetworkEncoder, Preprocessing, scaled
from clipcap_video.encoders.blocks import fuse_openai_tower
from clipcap_video.encoders.weights import StateDict, digest_weights, fold_batch_norms, read_state_dict
from clipcap_video.errors import ClipcapError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package warns about pkg_resources, which its user cannot fix
    import clip
    from clip.clip import _MODELS, _download
    from clip.model import CLIP, ModifiedResNet, build_model

CACHE = Path("~/.cache/clip")
MEAN, STD = scaled((0.48145466, 0.4578275, 0.40821073)), scaled((0.26862954, 0.26130258, 0.27577711))


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> NetworkEncoder:
    """CLIP by published name or by the path of a TorchScript archive or state dict."""
    if weights is None:
        weights = fetch(name) if name in _MODELS else Path(name).expanduser()
    model = build(read_state_dict(weights), weights)
    return ClipEncoder(name, model, device, precision)


def fetch(name: str) -> Path:
    """The file of a published model, downloaded unless it is in the package's own cache."""
    try:
        return Path(_download(_MODELS[name], str(CACHE.expanduser())))
    except (OSError, RuntimeError) as error:
        raise ClipcapError(
            f"cannot download CLIP {name} ({error}); fetch {_MODELS[name]} elsewhere and give its path"
        ) from None


def build(weights: StateDict, path: Path) -> CLIP:
    """A float32 CLIP on the CPU. Raises ClipcapError when `weights` are of another network.

    Keys may carry a prefix, as in checkpoints of programs that fine-tune CLIP inside a larger model.
    """
    prefixes = [key.removesuffix("visual.conv1.weight") for key in weights if key.endswith("visual.conv1.weight")]
    prefix = min(prefixes, key=len, default="")
    # Archives also store three sizes, which build_model reads from the shapes of the weights instead.
    sizes = ("input_resolution", "context_length", "vocab_size")
    state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    state = {key: value.float() for key, value in state.items() if key not in sizes}
    try:
        # build_model draws random weights (ten seconds for ViT-L/14) and keeps half-precision copies of ours;
        # on the meta device it does neither, and the weights are put in place as they are.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build_model(dict(state))
        model.load_state_dict(state, assign=True)
    except Exception:
        raise ClipcapError(f"{path} does not hold a CLIP model in OpenAI's format; check the file") from None
    mask = model.build_attention_mask()  # no parameter or buffer, so it was left on the meta device
    for block in model.transformer.resblocks:
        block.attn_mask = mask
    return model


class ClipEncoder(NetworkEncoder):
    """Features are CLIP's joint embeddings, not normalised to unit length."""

    def __init__(self, name: str, model: CLIP, device: torch.device, precision: str) -> None:
        digest = digest_weights(model)
        convolutional = isinstance(model.visual, ModifiedResNet)
        network: nn.Module = fold_batch_norms(model) if convolutional else model
        if not convolutional:
            fuse_openai_tower(model.visual, dtype_of(precision), device)
        side = model.visual.input_resolution
        pixels = Preprocessing(side, (side, side), "bicubic", MEAN, STD)
        dim = model.text_projection.shape[1]
        super().__init__(name, network, dim, pixels, digest, device, precision, convolutional)
        self.context_length: int = model.context_length

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network.encode_image(pixels)

    def text_features(self, texts: list[str]) -> Tensor:
        tokens = clip.tokenize(texts, context_length=self.context_length, truncate=True)
        return self.network.encode_text(tokens.to(self.device))
