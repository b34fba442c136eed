"""open_clip's models against open_clip itself."""

import json

import pytest
import torch

from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import frame, to_pil
from tests.tiny_clip import cosine_distance

open_clip = pytest.importorskip("open_clip")
CPU = torch.device("cpu")
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("open_clip")
    (path / "ViT-tiny-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("ViT-tiny-test")
    torch.save(model.state_dict(), path / "tiny.pt")
    return path / "tiny.pt", model.eval(), transform


def test_features_of_both_sides_are_open_clips(saved):
    path, model, transform = saved
    encoder = load_encoder(f"open_clip:ViT-tiny-test/{path}", CPU)
    assert encoder.dim == 24
    for size in ("landscape", "portrait", "odd"):
        image = frame(size)
        pixels = encoder.preprocess(image[None])
        with torch.inference_mode():
            expected = model.encode_image(transform(to_pil(image))[None])
            same_pixels = model.encode_image(encoder.prepare(pixels))
        ours = encoder.encode_images(pixels)
        assert cosine_distance(ours, expected) < 1e-4  # pixels differ in their rounding
        torch.testing.assert_close(ours, same_pixels, rtol=1e-3, atol=1e-4)
    texts = ["a dog runs", "a man"]
    with torch.inference_mode():
        expected = model.encode_text(open_clip.get_tokenizer("ViT-tiny-test")(texts))
    torch.testing.assert_close(encoder.encode_text(texts), expected, rtol=1e-3, atol=1e-4)
    assert load_encoder("open_clip:ViT-tiny-test", CPU, weights=path).weights_digest == encoder.weights_digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-tiny-test", "which weights; use open_clip:ViT-tiny-test/PRETRAINED"),
        ("open_clip:ViT-tiny-test/absent", "cannot load open_clip:ViT-tiny-test/absent"),
        ("open_clip:ViT-none/openai", "cannot load open_clip:ViT-none/openai"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_problems_are_one_sentence(name, message):
    with pytest.raises(ClipcapError, match=message) as error:
        load_encoder(name, CPU)
    assert "\n" not in str(error.value)
