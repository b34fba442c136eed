"""ResNets against torchvision's own."""

import urllib.error

import pytest
import torch
from torchvision.models import get_model_weights

from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import SIZES, frame, pixel_difference, to_pil
from tests.encoders.test_weights import CPU, random_resnet
from tests.tiny_clip import cosine_distance


@pytest.fixture(scope="module")
def resnet():
    return random_resnet("resnet50")


@pytest.fixture(scope="module")
def resnet_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet") / "resnet50.pth"
    torch.save(resnet.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def resnet_encoder(resnet_file):
    return load_encoder("resnet50", CPU, weights=resnet_file)


@pytest.mark.parametrize("size", SIZES)
def test_resnet_pixels_and_features_are_torchvisions(resnet, resnet_encoder, size):
    image = frame(size)
    transforms = get_model_weights("resnet50").IMAGENET1K_V2.transforms()
    pixels = resnet_encoder.preprocess(image[None])
    # torchvision resizes tensors in float arithmetic, PIL images in Pillow's integers, as we do.
    for source, tolerance in ((image[None], 0.2), (to_pil(image), 0.01)):
        expected = transforms(source).reshape(1, 3, 224, 224)
        recipe = resnet_encoder.pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
        average, largest = pixel_difference(pixels, expected * std + mean)
        assert average < tolerance
        assert largest < 1.01
    with torch.inference_mode():
        network = torch.nn.Sequential(*list(resnet.children())[:-1], torch.nn.Flatten())
        assert cosine_distance(resnet_encoder.encode_images(pixels), network(expected)) < 1e-5


def test_resnet_takes_weights_with_or_without_classifier(resnet, resnet_encoder, tmp_path):
    body = {f"module.{key}": value for key, value in resnet.state_dict().items() if not key.startswith("fc.")}
    torch.save({"state_dict": body}, tmp_path / "body.pth")
    encoder = load_encoder("resnet50", CPU, weights=tmp_path / "body.pth")
    assert encoder.dim == 2048
    assert encoder.weights_digest == resnet_encoder.weights_digest
    images = encoder.preprocess(frame("square")[None])
    assert torch.equal(encoder.encode_images(images), resnet_encoder.encode_images(images))


def test_resnet_bf16_stays_close(resnet_file, resnet_encoder):
    half = load_encoder("resnet50", CPU, "bf16", resnet_file)
    images = half.preprocess(torch.stack([frame("landscape", seed) for seed in range(2)]))
    assert 0 < cosine_distance(half.encode_images(images), resnet_encoder.encode_images(images)) < 1e-3


def test_weights_of_another_network_are_refused(resnet_file):
    with pytest.raises(ClipcapError, match=r"resnet50\.pth .* weights of resnet101: ") as error:
        load_encoder("resnet101", CPU, weights=resnet_file)
    assert "\n" not in str(error.value)


def test_a_failed_download_tells_to_give_a_file(monkeypatch):
    def fail(*args, **kwargs):
        assert kwargs["weights_only"] is True
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(ClipcapError, match=r"resnet50 .*resnet50-11ad3fa6\.pth .*--encoder_weights"):
        load_encoder("resnet50", CPU)
