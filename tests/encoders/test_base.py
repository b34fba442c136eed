from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from clipcap_video.encoders.base import NetworkEncoder, Preprocessing, center_crop, resized, scaled
from tests.encoder_frames import frame

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def test_the_short_side_gets_the_length_and_the_long_side_is_rounded_down():
    assert resized(1080, 1920, 224) == (224, 398)  # 398.2
    assert resized(427, 241, 224) == (396, 224)  # 396.88
    assert resized(300, 300, 224) == (224, 224)
    assert resized(240, 427, (7, 9)) == (7, 9)
    assert resized(240, 427, None) == (240, 427)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30))
def test_rounded_crop_is_torchvisions(height, width, crop_height, crop_width):
    images = torch.arange(1, height * width + 1, dtype=torch.int32).view(1, 1, height, width)
    expected = v2.functional.center_crop(images, [crop_height, crop_width])
    assert torch.equal(center_crop(images, (crop_height, crop_width), rounds=True), expected)


def test_floored_crop_takes_the_smaller_margin_first():
    row = torch.arange(7).view(1, 1, 1, 7)
    assert center_crop(row, (1, 4), rounds=False).flatten().tolist() == [1, 2, 3, 4]  # 3 / 2 -> 1
    assert center_crop(row, (1, 4), rounds=True).flatten().tolist() == [2, 3, 4, 5]  # 1.5 -> 2


def test_tall_and_wide_frames_keep_their_middle():
    recipe = Preprocessing(4, (4, 4), "bilinear", ZERO, ONE)
    wide = torch.zeros(1, 3, 4, 12, dtype=torch.uint8)
    wide[..., 4:8] = 200
    assert (recipe.resize_and_crop(wide) == 200).all()
    assert (recipe.resize_and_crop(wide.transpose(2, 3)) == 200).all()


def test_frames_of_extreme_shape_take_no_more_room_than_others():
    """Resized whole, 2 x 30,000 pixels would be 224 x 3,360,000."""
    recipe = Preprocessing(224, (224, 224), "bicubic", ZERO, ONE)
    thin = torch.zeros(1, 3, 30_000, 2, dtype=torch.uint8)
    thin[:, :, 14_990:15_010] = 200
    assert (recipe.resize_and_crop(thin) == 200).all()
    assert (recipe.resize_and_crop(thin.transpose(2, 3)) == 200).all()


def test_a_batch_gives_the_pixels_of_its_frames_in_either_memory_layout():
    recipe = Preprocessing(56, (56, 56), "bicubic", ZERO, ONE)
    frames = torch.stack([frame("odd", seed) for seed in range(3)])
    batch = recipe.resize_and_crop(frames)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for index in range(3):
        assert torch.equal(batch[index], recipe.resize_and_crop(frames[index : index + 1])[0])
    assert torch.equal(batch, recipe.resize_and_crop(frames.contiguous()))


def test_frames_are_not_changed():
    frames = frame("landscape")[None]
    before = frames.clone()
    Preprocessing(None, (64, 64), "bicubic", ZERO, ONE).normalize(frames)
    Preprocessing(64, (64, 64), "bicubic", ZERO, ONE).resize_and_crop(frames)
    assert torch.equal(frames, before)


def test_antialiasing_is_pillows():
    image = frame("large")
    recipe = Preprocessing((60, 107), None, "bicubic", ZERO, ONE)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((107, 60), Image.Resampling.BICUBIC)
    expected = v2.functional.pil_to_tensor(pillow).int()
    assert (recipe.resize_and_crop(image[None])[0].int() - expected).abs().max() <= 1


def test_normalize_subtracts_and_divides_per_channel():
    recipe = Preprocessing(None, None, "bilinear", (127.0, 100.0, 0.0), (128.0, 10.0, 255.0))
    pixels = recipe.normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(pixels, torch.tensor([1.0, 15.5, 1.0]))


def test_the_description_tells_recipes_apart():
    mean, std = scaled((0.5, 0.5, 0.5)), scaled((0.25, 0.25, 0.25))
    recipe = Preprocessing(232, (224, 224), "bilinear", mean, std)
    text = "short side 232 bilinear, center crop 224x224, mean 127.5 127.5 127.5, std 63.75 63.75 63.75"
    assert str(recipe) == text
    floored = Preprocessing(232, (224, 224), "bilinear", mean, std, crop_rounds=False)
    squashed = Preprocessing((224, 224), None, "bilinear", mean, std)
    assert len({str(recipe), str(floored), str(squashed)}) == 3


def test_pieces_that_are_encoded_side_by_side_are_put_together_in_order() -> None:
    class Means(NetworkEncoder):
        def image_features(self, pixels: Tensor) -> Tensor:
            return pixels.mean(dim=(2, 3))

    recipe = Preprocessing(8, (8, 8), "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    encoder = Means("means", torch.nn.Identity(), 3, recipe, "sha256:0", torch.device("cpu"), "fp32")
    images = torch.randint(0, 256, (37, 3, 8, 8), dtype=torch.uint8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = encoder.encode_images(images)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, images.float().mean(dim=(2, 3)))
