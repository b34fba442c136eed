"""What a model sees of a frame, by its processor: read, checked, and cut into patches."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import CLIPImageProcessor

from clipcap_video.encoders import load_encoder
from clipcap_video.encoders.huggingface_pixels import PatchTable, check_recipe, patches_of, read_recipe
from clipcap_video.errors import ClipcapError
from tests.encoders.huggingface_models import CPU, build


def test_an_old_processor_file_with_plain_numbers_is_read(tmp_path):
    model, _ = build("clip")
    model.save_pretrained(tmp_path)
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 64, "resample": 3}
    old |= {"do_resize": True, "do_center_crop": True, "do_normalize": True}
    old |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    recipe = load_encoder(f"hf:{tmp_path}", CPU).pixels
    assert (recipe.resize, recipe.crop, recipe.interpolation) == (64, (64, 64), "bicubic")
    assert recipe.mean == pytest.approx((127.5, 102, 76.5))
    assert recipe.std == pytest.approx((51, 51, 51))


def test_a_processor_that_does_more_is_refused():
    _, processor = build("clip")
    recipe = read_recipe(processor, "it")
    check_recipe(recipe, processor, "it")
    for wrong in (replace(recipe, interpolation="bilinear", resize=80), replace(recipe, mean=(0.0, 0.0, 0.0))):
        with pytest.raises(ClipcapError, match="the image processor of it does more than resize, crop and normalise"):
            check_recipe(wrong, processor, "it")


def test_one_size_is_needed():
    with pytest.raises(ClipcapError, match="gives images of many sizes; encoders need one"):
        read_recipe(CLIPImageProcessor(size={"shortest_edge": 64}, do_center_crop=False), "it")
    with pytest.raises(ClipcapError, match="resizes neither bilinearly nor bicubically"):
        read_recipe(CLIPImageProcessor(resample=0), "it")


def test_patches_go_row_by_row_each_with_its_colours_last():
    recipe = PatchTable(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), patch=2, most=6)
    frame = torch.arange(2 * 4 * 3 * 6, dtype=torch.uint8).reshape(2, 3, 4, 6)  # 2 x 3 patches as it is
    tables = recipe.resize_and_crop(frame)
    assert tables.shape == (2, 3, 1 + 6, 4)
    ((grid, patches),) = patches_of(recipe.normalize(tables))
    assert grid == (2, 3)
    for row in range(2):
        for column in range(3):
            cut = frame[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(patches[:, 3 * row + column], cut.permute(0, 2, 3, 1).flatten(1).float())


def test_tables_of_different_shapes_come_apart_again_in_their_order():
    recipe = PatchTable(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), patch=2, most=6)
    wide, high = (torch.zeros(1, 3, *size, dtype=torch.uint8) for size in ((4, 6), (6, 4)))
    tables = torch.cat([recipe.resize_and_crop(frame) for frame in (wide, wide, high, wide)])
    shapes = [(grid, len(part)) for grid, part in patches_of(recipe.normalize(tables))]
    assert shapes == [((2, 3), 2), ((3, 2), 1), ((2, 3), 1)]
