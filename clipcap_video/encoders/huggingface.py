"""Whatever transformers gives an image or a video side to: `hf:NAME` from the hub or `hf:PATH` on disk.

CLIP, SigLIP, DINOv2, DINOv3, Chinese-CLIP, AltCLIP, I-JEPA, ViT, ConvNeXt and their like, which look at single frames;
VideoMAE, X-CLIP, TimeSformer, ViViT and V-JEPA 2, which look at clips of several.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    AutoVideoProcessor,
    CLIPVisionModelWithProjection,
)
from transformers.utils import logging as transformers_logging

from clipcap_video.devices import dtype_of
from clipcap_video.encoders.base import NetworkEncoder, Preprocessing
from clipcap_video.encoders.blocks import fuse_huggingface_tower
from clipcap_video.encoders.huggingface_pixels import PatchTable, check_recipe, patches_of, read_recipe
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError, first_line
from clipcap_video.network import try_hub_once

# Models of clips of frames, and where their configuration says how many a clip has.
CLIPS_OF_FRAMES = {
    "videomae": "num_frames",
    "timesformer": "num_frames",
    "vivit": "num_frames",
    "xclip": "vision_config.num_frames",
    "vjepa2": "frames_per_clip",
}
# SigLIP was trained on texts padded to their full length, and to attend to the padding.
PADDED_IN_FULL = ("siglip", "siglip2")


def load(name: str, device: torch.device, precision: str, weights: Path | None) -> NetworkEncoder:
    """The model after `hf:`. Code from the hub is never run."""
    if weights is not None:
        raise ClipcapError(f"encoder {name} reads its own weights; give their folder as hf:PATH instead")
    source = name.removeprefix("hf:")
    if Path(source).expanduser().is_dir():
        source = str(Path(source).expanduser())
    elif source.startswith(("/", "./", "../", "~")):
        raise ClipcapError(f"no model folder at {source}; check the path after hf:")
    config = from_pretrained(AutoConfig, source)
    model, report = from_pretrained(_model_class(config, source), source, output_loading_info=True)
    missing = set(report["missing_keys"])
    if not _drop_pooler(model, missing):  # transformers would leave these random and only warn
        raise ClipcapError(f"{source} lacks weights of its model: {min(missing)}, for one")
    if hasattr(config, "mask_ratio"):
        model.config.mask_ratio = 0.0  # a masked autoencoder hides most of the image
    processor = _processor(config, source)
    recipe = read_recipe(processor, source)
    check_recipe(recipe, processor, source)
    return HuggingFaceEncoder(name, source, model.float(), recipe, device, precision)


def _model_class(config: Any, source: str) -> Any:
    """The class that reads a model; raises ClipcapError where it does not turn one image into something."""
    kind = config.model_type
    if kind == "timm_wrapper":
        raise ClipcapError(f"{source} is a model of timm; use timm:hf-hub:{source}")
    if kind == "clip_vision_model":
        return CLIPVisionModelWithProjection
    found = MODEL_MAPPING.get(type(config), None)
    image_side = getattr(found, "main_input_name", None) == "pixel_values" or hasattr(found, "get_image_features")
    if not image_side and kind not in CLIPS_OF_FRAMES:
        raise ClipcapError(f"{source} is a model of type {kind}, which has no image side; use a CLIP, SigLIP or DINO")
    return AutoModel


def _processor(config: Any, source: str) -> Any:
    """The model's own image processor; that of videos where it has no other."""
    try:
        return from_pretrained(AutoImageProcessor, source)
    except ClipcapError:
        if config.model_type not in CLIPS_OF_FRAMES:
            raise
        return from_pretrained(AutoVideoProcessor, source)


def _drop_pooler(model: Any, missing: set[str]) -> bool:
    """Whether nothing is missing but the pooler that ViTs without a class head lack; it is taken off."""
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None
        return True
    return not missing


def from_pretrained(auto_class: Any, source: str, form: str = "hf:", **options: Any) -> Any:
    """Reads from the disk if all is there, else from the hub. form: what users type before the source."""
    reason = ""
    for local_only in (True, False):
        if not local_only and Path(source).is_dir():
            break
        if not local_only:
            try_hub_once()
        try:
            with _quiet():
                return auto_class.from_pretrained(
                    source, local_files_only=local_only, trust_remote_code=False, **options
                )
        except Exception as error:  # whatever the library throws at a model that is damaged
            reason = first_line(error)
    raise ClipcapError(f"cannot load {form}{source} ({reason}); check the name, the folder or the network")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps loading reports, retries and bars from the terminal; downloads of the hub show their own bar."""
    hub = logging.getLogger("huggingface_hub")
    hub_level, verbosity = hub.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


class HuggingFaceEncoder(NetworkEncoder):
    """Features: the projected embedding of CLIP and its like, else the model's pooled output, else its class token,
    else the mean over the image or clip (I-JEPA, VideoMAE)."""

    def __init__(
        self, name: str, source: str, model: Any, pixels: Preprocessing, device: torch.device, precision: str
    ) -> None:
        config = model.config
        digest = digest_weights(model)
        self._class_token = any(key.endswith("cls_token") for key, _ in model.named_parameters())
        of_clips = config.model_type in CLIPS_OF_FRAMES
        if not of_clips:  # whose blocks look alike, but attend over time, too
            fuse_huggingface_tower(getattr(model, "vision_model", model), dtype_of(precision), device)
        super().__init__(name, model, 0, pixels, digest, device, precision)
        self.source = source
        if of_clips:
            self.frames_per_clip = int(attrgetter(CLIPS_OF_FRAMES[config.model_type])(config))
            self.preprocessing += f", clips of {self.frames_per_clip}"
        self._tokenizer: Any = None
        self.dim = self._measured_width()

    def _measured_width(self) -> int:
        black = self.preprocess(torch.zeros(self.frames_per_clip, 3, 64, 64, dtype=torch.uint8))
        try:
            features = self._encode(black)
        except Exception as error:  # whatever a model says that needs more than pixels
            reason = first_line(error)
        else:
            if features.ndim == 2 and len(features) == 1:
                return features.shape[1]
            reason = f"shape {list(features.shape)}"
        raise ClipcapError(f"{self.source} gives no single vector for an image ({reason}); use a CLIP, SigLIP or DINO")

    def image_features(self, pixels: Tensor) -> Tensor:
        ways = ("get_image_features", "get_video_features", "get_vision_features")
        encode = next((getattr(self.network, way) for way in ways if hasattr(self.network, way)), self.network)
        if isinstance(self.pixels, PatchTable):
            return torch.cat([_pooled(encode(**_patch_inputs(*part))) for part in patches_of(pixels)])
        if self.frames_per_clip > 1:
            pixels = pixels.unflatten(0, (-1, self.frames_per_clip))  # [n, k, 3, S, S]
        return _pooled(encode(pixels), self._class_token)

    def text_features(self, texts: list[str]) -> Tensor:
        if not hasattr(self.network, "get_text_features"):
            return super().text_features(texts)
        if self._tokenizer is None:
            self._tokenizer = from_pretrained(AutoTokenizer, self.source)
        length = min(self.network.config.text_config.max_position_embeddings, self._tokenizer.model_max_length)
        in_full = self.network.config.model_type in PADDED_IN_FULL
        tokens = self._tokenizer(
            texts, padding="max_length" if in_full else True, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.device)
        inputs = {"input_ids": tokens["input_ids"]}
        if not in_full:
            inputs["attention_mask"] = tokens["attention_mask"]
        return _pooled(self.network.get_text_features(**inputs))


def _pooled(output: Any, class_token: bool = False) -> Tensor:
    """One vector an input; releases of transformers, and models, differ in what they wrap around it."""
    embeds = getattr(output, "image_embeds", None)
    pooled = getattr(output, "pooler_output", None) if embeds is None else embeds
    if pooled is not None:
        return pooled.flatten(1)  # [n, D, 1, 1] of convolutional networks
    hidden = output if isinstance(output, Tensor) else output.last_hidden_state
    if hidden.ndim == 2:
        return hidden
    if hidden.ndim == 4:  # [n, D, h, w]
        return hidden.mean((2, 3))
    return hidden[:, 0] if class_token else hidden.mean(1)


def _patch_inputs(grid: tuple[int, int], patches: Tensor) -> dict[str, Tensor]:
    """What a flexible SigLIP 2 reads of frames of one shape: patches [n, rows * columns, S * S * 3]."""
    count, device = len(patches), patches.device
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32, device=device),
        "spatial_shapes": torch.tensor([grid], device=device).expand(count, 2),
    }
