"""The pixels that models of transformers see: recipes read from their processors, and checked against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipcap_video.encoders.base import RGB, Preprocessing, scaled
from clipcap_video.errors import ClipcapError

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # as Pillow numbers them


def read_recipe(processor: Any, source: str) -> Preprocessing:
    """Our preprocessing that does what the model's own image or video processor does."""
    settings = processor.to_dict()
    resample = int(settings.get("resample") or 0)
    interpolation = INTERPOLATIONS.get(resample, "")
    unit = 1 / settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)
    if settings.get("do_normalize"):
        mean, std = settings["image_mean"], settings["image_std"]
    if settings.get("offset"):  # ViViT takes 1 off after scaling
        mean = tuple(value + 1 for value in mean)
    colours = scaled(mean, unit), scaled(std, unit)
    if "max_num_patches" in settings:
        return PatchTable(
            None, None, interpolation, *colours, patch=settings["patch_size"], most=settings["max_num_patches"]
        )
    resize: int | tuple[int, int] | None = None
    if settings.get("do_resize"):
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
    if resize is not None and not interpolation:
        raise ClipcapError(f"the image processor of {source} resizes neither bilinearly nor bicubically")
    return Preprocessing(resize, crop, interpolation, *colours, crop_rounds=False)


def check_recipe(recipe: Preprocessing, processor: Any, source: str) -> None:
    """Raises ClipcapError where the model's own processor makes other pixels of a frame than `recipe` does."""
    frame = torch.randint(0, 256, (1, 3, 8, 11), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frame = F.interpolate(frame, size=(250, 340), mode="bilinear")
    ours = recipe.normalize(recipe.resize_and_crop(frame))
    picture = frame[0].permute(1, 2, 0).numpy()
    if "video_processor_type" in processor.to_dict():
        made = processor(videos=[[picture]], return_tensors="pt")
    else:
        made = processor(picture, return_tensors="pt")
    theirs = made["pixel_values_videos"] if "pixel_values_videos" in made else made["pixel_values"]
    if isinstance(recipe, PatchTable):
        ((grid, ours),) = patches_of(ours)
        same = made["spatial_shapes"].tolist() == [list(grid)]
        theirs = theirs[:, : ours.shape[1]]
    else:
        theirs = theirs.flatten(0, -4)  # of a video processor [1, 1, 3, S, S]
        same = True
    if not same or theirs.shape != ours.shape or float((theirs - ours).abs().mean()) > 0.01:
        raise ClipcapError(
            f"the image processor of {source} does more than resize, crop and normalise; use another model"
        )


@dataclass(frozen=True)
class PatchTable(Preprocessing):
    """SigLIP 2 of flexible resolution: a frame keeps its aspect ratio, with as many patches as the model takes.

    Frames of all shapes batch as tables, uint8 [n, 3, 1 + most, patch * patch]: a row a patch, and above them one that
    says how many rows and columns of patches the frame has, each number as two digits of base 256.
    """

    patch: int = 16
    most: int = 256

    def __str__(self) -> str:
        return f"at most {self.most} patches of {self.patch}x{self.patch} {self.interpolation}, {super().__str__()}"

    def resize_and_crop(self, frames: Tensor) -> Tensor:
        """uint8 [n, 3, H, W] -> uint8 [n, 3, 1 + most, patch * patch]."""
        from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

        size = get_image_size_for_max_num_patches(*frames.shape[-2:], self.patch, self.most)
        frames = F.interpolate(frames, size=size, mode=self.interpolation, antialias=True)
        rows, columns = size[0] // self.patch, size[1] // self.patch
        cut = frames.reshape(len(frames), 3, rows, self.patch, columns, self.patch).permute(0, 1, 2, 4, 3, 5)
        table = torch.zeros(len(frames), 3, 1 + self.most, self.patch**2, dtype=torch.uint8)
        table[:, :, 1 : 1 + rows * columns] = cut.reshape(len(frames), 3, rows * columns, -1)
        table[:, :, 0, :4] = torch.tensor([*divmod(rows, 256), *divmod(columns, 256)], dtype=torch.uint8)
        return table.contiguous(memory_format=torch.channels_last)

    def normalize(self, images: Tensor) -> Tensor:
        """As of pixels, but for the numbers in the first row, which stay."""
        table = super().normalize(images)
        table[:, :, 0] = images[:, :, 0].float()
        return table


def patches_of(tables: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
    """Normalised tables [n, 3, 1 + most, S * S], neighbours of one shape together: ((rows, columns), patches) with
    patches [m, rows * columns, S * S * 3], as SigLIP 2 takes them."""
    digits = tables[:, 0, 0, :4].long()
    grids = torch.stack([digits[:, 0] * 256 + digits[:, 1], digits[:, 2] * 256 + digits[:, 3]], dim=1)
    shapes, counts = torch.unique_consecutive(grids, dim=0, return_counts=True)
    parts = tables.split(counts.tolist())
    return [
        ((rows, columns), part[:, :, 1 : 1 + rows * columns].permute(0, 2, 3, 1).flatten(2))
        for (rows, columns), part in zip(shapes.tolist(), parts, strict=True)
    ]
