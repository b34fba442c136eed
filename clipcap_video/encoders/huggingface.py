"""CLIP, SigLIP, SigLIP 2 and DINOv2 through transformers: `hf:NAME` from the hub or `hf:PATH` on disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPVisionModelWithProjection,
)
from transformers.utils import logging as transformers_logging

from clipcap_video.devices import dtype_of
from clipcap_video.encoders.base import NetworkEncoder, Preprocessing, scaled
from clipcap_video.encoders.blocks import fuse_huggingface_tower
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError, first_line
from clipcap_video.network import try_hub_once

# model type -> (class that loads it, how its tokenizer pads or None without a text side)
KINDS: dict[str, tuple[Any, bool | str | None]] = {
    "clip": (AutoModel, True),
    "siglip": (AutoModel, "max_length"),
    "siglip2": (AutoModel, "max_length"),
    "dinov2": (AutoModel, None),
    "dinov2_with_registers": (AutoModel, None),
    "clip_vision_model": (CLIPVisionModelWithProjection, None),
    "siglip_vision_model": (AutoModel, None),
}
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # as Pillow numbers them


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
    if config.model_type not in KINDS:
        raise ClipcapError(f"{source} is a model of type {config.model_type}; encoders are of type {', '.join(KINDS)}")
    model_class, padding = KINDS[config.model_type]
    model, report = from_pretrained(model_class, source, output_loading_info=True)
    if report["missing_keys"]:  # transformers would leave these random and only warn
        raise ClipcapError(f"{source} lacks weights of its model: {min(report['missing_keys'])}, for one")
    recipe = read_recipe(from_pretrained(AutoImageProcessor, source), source)
    return HuggingFaceEncoder(name, source, model.float(), padding, recipe, device, precision)


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


def read_recipe(processor: Any, source: str) -> Preprocessing:
    """Our preprocessing that does what the model's own image processor does.

    SigLIP 2 models of flexible resolution keep the aspect ratio of each image; here they get a square of
    as many patches, as in the SigLIP 2 models of fixed resolution, so that frames of all videos batch.
    """
    settings = processor.to_dict()
    resize: int | tuple[int, int] | None = None
    if "max_num_patches" in settings:
        side = math.isqrt(settings["max_num_patches"]) * settings["patch_size"]
        resize = (side, side)
    elif settings.get("do_resize"):
        size = settings["size"]
        resize = size.get("shortest_edge") or (size["height"], size["width"])
    crop = None
    if settings.get("do_center_crop"):
        crop = (settings["crop_size"]["height"], settings["crop_size"]["width"])
    if crop is None and not isinstance(resize, tuple):
        raise ClipcapError(f"the image processor of {source} gives images of many sizes; encoders need one")
    resample = int(settings.get("resample") or 0)
    if resize is not None and resample not in INTERPOLATIONS:
        raise ClipcapError(f"the image processor of {source} resizes neither bilinearly nor bicubically")
    unit = 1 / settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize"):
        mean, std = settings["image_mean"], settings["image_std"]
    interpolation = INTERPOLATIONS.get(resample, "")
    return Preprocessing(resize, crop, interpolation, scaled(mean, unit), scaled(std, unit), crop_rounds=False)


class HuggingFaceEncoder(NetworkEncoder):
    """Features: CLIP's projected embedding, SigLIP's pooled output, DINOv2's class token after the norm."""

    def __init__(
        self,
        name: str,
        source: str,
        model: Any,
        padding: bool | str | None,
        pixels: Preprocessing,
        device: torch.device,
        precision: str,
    ) -> None:
        config = model.config
        vision = getattr(config, "vision_config", config)
        dim = config.projection_dim if config.model_type.startswith("clip") else vision.hidden_size
        digest = digest_weights(model)
        fuse_huggingface_tower(getattr(model, "vision_model", model), dtype_of(precision))
        super().__init__(name, model, dim, pixels, digest, device, precision)
        self.source = source
        self.padding = padding
        self.patch_size: int | None = vision.patch_size if config.model_type == "siglip2" else None
        self._tokenizer: Any = None

    def image_features(self, pixels: Tensor) -> Tensor:
        inputs: dict[str, Tensor] = {"pixel_values": pixels}
        if self.patch_size is not None:
            inputs = _patches(pixels, self.patch_size)
        encode = getattr(self.network, "get_image_features", self.network)
        return _pooled(encode(**inputs))

    def text_features(self, texts: list[str]) -> Tensor:
        if self.padding is None:
            return super().text_features(texts)
        if self._tokenizer is None:
            self._tokenizer = from_pretrained(AutoTokenizer, self.source)
        length = self.network.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            texts, padding=self.padding, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.device)
        inputs = {"input_ids": tokens["input_ids"]}
        if self.padding is True:  # SigLIP was trained to attend to its padding
            inputs["attention_mask"] = tokens["attention_mask"]
        return _pooled(self.network.get_text_features(**inputs))


def _pooled(output: Any) -> Tensor:
    """One vector an input; releases of transformers differ in what they wrap around it."""
    if isinstance(output, Tensor):
        return output
    embeds = getattr(output, "image_embeds", None)
    return output.pooler_output if embeds is None else embeds


def _patches(pixels: Tensor, size: int) -> dict[str, Tensor]:
    """[n, 3, H, W] -> inputs of a flexible SigLIP 2: patches [n, H/size * W/size, size**2 * 3]."""
    n, channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    grid = pixels.reshape(n, channels, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": grid.reshape(n, rows * columns, size * size * channels),
        "pixel_attention_mask": torch.ones(n, rows * columns, dtype=torch.int32, device=pixels.device),
        "spatial_shapes": torch.tensor([[rows, columns]], device=pixels.device).expand(n, 2),
    }
