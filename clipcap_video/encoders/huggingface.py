"""Whatever transformers gives an image side to: `hf:NAME` from the hub or `hf:PATH` on disk.

CLIP, SigLIP, DINOv2, DINOv3, Chinese-CLIP, AltCLIP, I-JEPA, ViT, ConvNeXt and their like.
"""

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
    MODEL_MAPPING,
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

CLIPS_OF_FRAMES = ("videomae", "xclip", "timesformer", "vivit", "vjepa2")
# SigLIP was trained on texts padded to their full length, and to attend to the padding.
PADDED_IN_FULL = ("siglip", "siglip2")
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
    model, report = from_pretrained(_model_class(config, source), source, output_loading_info=True)
    missing = set(report["missing_keys"])
    if not _drop_pooler(model, missing):  # transformers would leave these random and only warn
        raise ClipcapError(f"{source} lacks weights of its model: {min(missing)}, for one")
    if hasattr(config, "mask_ratio"):
        model.config.mask_ratio = 0.0  # a masked autoencoder hides most of the image
    processor = from_pretrained(AutoImageProcessor, source)
    recipe = read_recipe(processor, source)
    check_recipe(recipe, processor, source)
    return HuggingFaceEncoder(name, source, model.float(), recipe, device, precision)


def _model_class(config: Any, source: str) -> Any:
    """The class that reads a model; raises ClipcapError where it does not turn one image into something."""
    kind = config.model_type
    if kind in CLIPS_OF_FRAMES:
        raise ClipcapError(
            f"{source} is a model of type {kind}, which looks at several frames at once; use one of images"
        )
    if kind == "timm_wrapper":
        raise ClipcapError(f"{source} is a model of timm; use timm:hf-hub:{source}")
    if kind == "clip_vision_model":
        return CLIPVisionModelWithProjection
    found = MODEL_MAPPING.get(type(config), None)
    image_side = getattr(found, "main_input_name", None) == "pixel_values" or hasattr(found, "get_image_features")
    if not image_side:
        raise ClipcapError(f"{source} is a model of type {kind}, which has no image side; use a CLIP, SigLIP or DINO")
    return AutoModel


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
        resize = size.get("shortest_edge") or (size.get("height"), size.get("width"))
    crop = None
    if settings.get("do_center_crop"):
        crop = (settings["crop_size"]["height"], settings["crop_size"]["width"])
    if "crop_pct" in settings and isinstance(resize, int):  # ConvNeXt: large images are squeezed, small ones cropped
        crop = (resize, resize)
        resize = crop if resize >= 384 else int(resize / (settings["crop_pct"] or 224 / 256))
    if crop is None and not (isinstance(resize, tuple) and all(resize)):
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


def check_recipe(recipe: Preprocessing, processor: Any, source: str) -> None:
    """Raises ClipcapError where the model's own processor makes other pixels of a frame than `recipe` does."""
    if hasattr(processor, "max_num_patches"):  # one that keeps the aspect ratio; see `read_recipe`
        return
    frame = torch.randint(0, 256, (1, 3, 8, 11), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frame = torch.nn.functional.interpolate(frame, size=(250, 340), mode="bilinear")
    ours = recipe.normalize(recipe.resize_and_crop(frame))
    theirs = processor(frame[0].permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    if theirs.shape != ours.shape or float((theirs - ours).abs().mean()) > 0.01:
        raise ClipcapError(
            f"the image processor of {source} does more than resize, crop and normalise; use another model"
        )


class HuggingFaceEncoder(NetworkEncoder):
    """Features: the projected embedding of CLIP and its like, else the model's pooled output, else its class token,
    else the mean over the image (I-JEPA)."""

    def __init__(
        self, name: str, source: str, model: Any, pixels: Preprocessing, device: torch.device, precision: str
    ) -> None:
        config = model.config
        digest = digest_weights(model)
        self._class_token = any(key.endswith("cls_token") for key, _ in model.named_parameters())
        fuse_huggingface_tower(getattr(model, "vision_model", model), dtype_of(precision))
        super().__init__(name, model, 0, pixels, digest, device, precision)
        self.source = source
        vision = getattr(config, "vision_config", config)
        self.patch_size: int | None = vision.patch_size if config.model_type == "siglip2" else None
        self._tokenizer: Any = None
        self.dim = self._measured_width()

    def _measured_width(self) -> int:
        size = self.pixels.crop or self.pixels.resize
        assert isinstance(size, tuple)
        try:
            features = self._encode(torch.zeros(1, 3, *size, dtype=torch.uint8))
        except Exception as error:  # whatever a model says that needs more than pixels
            reason = first_line(error)
        else:
            if features.ndim == 2 and len(features) == 1:
                return features.shape[1]
            reason = f"shape {list(features.shape)}"
        raise ClipcapError(f"{self.source} gives no single vector for an image ({reason}); use a CLIP, SigLIP or DINO")

    def image_features(self, pixels: Tensor) -> Tensor:
        inputs: dict[str, Tensor] = {"pixel_values": pixels}
        if self.patch_size is not None:
            inputs = _patches(pixels, self.patch_size)
        encode = getattr(self.network, "get_image_features", self.network)
        return _pooled(encode(**inputs), self._class_token)

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
    if isinstance(output, Tensor):
        return output
    embeds = getattr(output, "image_embeds", None)
    pooled = getattr(output, "pooler_output", None) if embeds is None else embeds
    if pooled is not None:
        return pooled.flatten(1)  # [n, D, 1, 1] of convolutional networks
    hidden = output.last_hidden_state
    if hidden.ndim == 4:  # [n, D, h, w]
        return hidden.mean((2, 3))
    return hidden[:, 0] if class_token else hidden.mean(1)


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
