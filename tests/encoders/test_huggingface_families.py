"""Families beside CLIP, SigLIP and DINOv2, each against transformers itself."""

import pytest
import torch
import transformers as hf

from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import frame
from tests.encoders.huggingface_models import CPU, SMALL, TEXT, VISION, save_made
from tests.tiny_clip import cosine_distance

BERT = {**TEXT, "max_position_embeddings": 16}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SQUARE = {"size": {"height": 64, "width": 64}}
TOWERS = {"text_config": BERT, "vision_config": VISION, "projection_dim": 24}


def chinese_clip():
    return hf.ChineseCLIPModel(hf.ChineseCLIPConfig(**TOWERS)), hf.ChineseCLIPImageProcessor(crop_size=64, size=64)


def altclip():
    config = hf.AltCLIPConfig(**TOWERS | {"text_config": {**BERT, "project_dim": 24}})
    return hf.AltCLIPModel(config), hf.CLIPImageProcessor(crop_size=64, size={"shortest_edge": 64})


def dinov3():
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION)), hf.DINOv3ViTImageProcessor(**SQUARE)


def ijepa():
    return hf.IJepaModel(hf.IJepaConfig(**VISION)), hf.ViTImageProcessor(**SQUARE)


def vit():
    return hf.ViTModel(hf.ViTConfig(**VISION)), hf.ViTImageProcessor(**SQUARE)


def masked_autoencoder():
    return hf.ViTMAEModel(hf.ViTMAEConfig(**VISION, mask_ratio=0.0)), hf.ViTImageProcessor(**SQUARE)


def convnext():
    return hf.ConvNextModel(hf.ConvNextConfig(**STAGES)), hf.ConvNextImageProcessor(size={"shortest_edge": 64})


def resnet():
    config = hf.ResNetConfig(**STAGES, embedding_size=8, layer_type="basic")
    return hf.ResNetModel(config), hf.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)


FAMILIES = [chinese_clip, altclip, dinov3, ijepa, vit, masked_autoencoder, convnext, resnet]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda build: build.__name__)
def family(request, tmp_path_factory):
    return save_made(request.param, tmp_path_factory.mktemp("family") / request.param.__name__, 0.1)


def expected_features(model, **inputs):
    with torch.inference_mode():
        output = getattr(model, "get_image_features", model)(**inputs)
    if isinstance(output, torch.Tensor):
        return output
    if getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    is_ijepa = model.config.model_type == "ijepa"  # the only one without a class token
    return output.last_hidden_state.mean(1) if is_ijepa else output.last_hidden_state[:, 0]


@pytest.mark.parametrize("size", ["landscape", "odd"])
def test_features_are_the_librarys(family, size):
    path, model, processor = family
    encoder = load_encoder(f"hf:{path}", CPU)
    image = frame(size)
    expected = expected_features(model, pixel_values=processor(image, return_tensors="pt")["pixel_values"])
    pixels = encoder.preprocess(image[None])
    ours = encoder.encode_images(pixels)
    assert ours.shape == expected.shape == (1, encoder.dim)
    assert cosine_distance(ours, expected) < 1e-4  # pixels differ in their rounding
    same_pixels = expected_features(model, pixel_values=encoder.prepare(pixels))
    torch.testing.assert_close(ours, same_pixels, rtol=1e-3, atol=1e-4)
    assert (ours - encoder.encode_images(encoder.preprocess(frame("landscape", 1)[None]))).norm() > 1e-3


def test_text_features_are_the_librarys(family):
    path, model, _ = family
    encoder = load_encoder(f"hf:{path}", CPU)
    if not hasattr(model, "get_text_features"):
        with pytest.raises(ClipcapError, match="no text side"):
            encoder.encode_text(["a"])
        return
    tokens = hf.AutoTokenizer.from_pretrained(path)(["a b c"], return_tensors="pt")
    with torch.inference_mode():
        expected = model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    torch.testing.assert_close(encoder.encode_text(["a b c", "d"])[:1], expected, rtol=1e-3, atol=1e-4)


def test_a_vit_without_its_pooler_gives_the_class_token(tmp_path):
    model = hf.ViTModel(hf.ViTConfig(**VISION), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    hf.ViTImageProcessor(**SQUARE).save_pretrained(tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}", CPU)
    images = encoder.preprocess(frame("odd")[None])
    with torch.inference_mode():
        expected = model(encoder.prepare(images)).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder.encode_images(images), expected, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_had_says_so(tmp_path):
    hf.ViTModel(hf.ViTConfig(**VISION)).save_pretrained(tmp_path / "padded")
    hf.ViTImageProcessor(**SQUARE, resample=0).save_pretrained(tmp_path / "padded")
    with pytest.raises(ClipcapError, match="neither bilinearly nor bicubically"):
        load_encoder(f"hf:{tmp_path / 'padded'}", CPU)
    git = hf.GitConfig(vision_config=VISION, **SMALL, vocab_size=30, bos_token_id=1, eos_token_id=2)
    git.save_pretrained(tmp_path / "git")
    with pytest.raises(ClipcapError, match=r"git.* has no image side"):
        load_encoder(f"hf:{tmp_path / 'git'}", CPU)
