"""timm's networks against timm itself."""

import pytest
import torch

from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import frame, to_pil
from tests.tiny_clip import cosine_distance

timm = pytest.importorskip("timm")
CPU = torch.device("cpu")


def features(network, pixels):
    with torch.inference_mode():
        return network.forward_head(network.forward_features(pixels), pre_logits=True)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet", "test_convnext", "test_nfnet"])
def test_features_are_timms(name, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(whole))
    encoder = load_encoder(f"timm:{name}", CPU, weights=tmp_path / "weights.pt")
    for size in ("landscape", "odd"):
        image = frame(size)
        pixels = encoder.preprocess(image[None])
        expected = features(whole, transform(to_pil(image))[None])
        ours = encoder.encode_images(pixels)
        assert ours.shape == expected.shape == (1, encoder.dim)
        assert cosine_distance(ours, expected) < 1e-3  # pixels differ in their rounding
        torch.testing.assert_close(ours, features(whole, encoder.prepare(pixels)), rtol=1e-3, atol=1e-5)


def test_problems_are_one_sentence(tmp_path):
    with pytest.raises(ClipcapError, match="cannot load timm:nothing_of_this_name") as error:
        load_encoder("timm:nothing_of_this_name", CPU)
    assert "\n" not in str(error.value)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ClipcapError, match=r"other\.pt does not hold the weights of timm:"):
        load_encoder("timm:vit_tiny_patch16_224", CPU, weights=tmp_path / "other.pt")
