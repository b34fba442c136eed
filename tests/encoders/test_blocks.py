import pytest
import torch
from torch import nn

from clipcap_video.encoders.blocks import FusedBlock, PatchProjection, fuse_huggingface_tower, fuse_openai_tower
from clipcap_video.encoders.clip import ClipEncoder
from tests.encoders.huggingface_models import build
from tests.tiny_clip import cosine_distance, tiny_clip

CPU = torch.device("cpu")


def randomised(network):
    """Weights away from their neutral starts (unit layer scales, zero biases), so that losing one shows."""
    torch.manual_seed(3)
    for weight in network.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return network.eval().requires_grad_(False)


def features_of(network, pixels):
    found = getattr(network, "get_image_features", network)(pixels)
    return found if isinstance(found, torch.Tensor) else found.pooler_output


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_fused_towers_of_transformers_compute_the_same(kind, activation):
    network, _ = build(kind)
    tower = getattr(network, "vision_model", network)
    for module in tower.modules():
        if hasattr(module, "activation_fn"):
            module.activation_fn = type(module.activation_fn)() if activation is None else _activation(activation)
    randomised(network)
    pixels = torch.randn(3, 3, 64, 64)
    expected = features_of(network, pixels)
    older = any(name.endswith("attention.attention") for name, _ in tower.named_modules())  # DINOv2 of older releases
    fuse_huggingface_tower(tower, torch.float32, CPU)
    assert sum(isinstance(module, FusedBlock) for module in tower.modules()) == (0 if older else 2)
    assert sum(isinstance(module, PatchProjection) for module in tower.modules()) == 1
    torch.testing.assert_close(features_of(network, pixels), expected, rtol=1e-4, atol=1e-4)


def _activation(name):
    from transformers.activations import ACT2FN

    return ACT2FN[name]


def test_a_block_of_another_build_stays(monkeypatch):
    network, _ = build("clip")
    layer = network.vision_model.encoder.layers[0]
    layer.mlp.activation_fn = nn.Tanh()
    randomised(network)
    pixels = torch.randn(2, 3, 64, 64)
    expected = features_of(network, pixels)
    fuse_huggingface_tower(network.vision_model, torch.float32, CPU)
    assert network.vision_model.encoder.layers[0] is layer
    torch.testing.assert_close(features_of(network, pixels), expected, rtol=1e-4, atol=1e-4)


def test_a_fused_tower_of_openai_computes_the_same():
    model = randomised(tiny_clip("vit"))
    side = model.visual.input_resolution
    pixels = torch.randn(3, 3, side, side)
    expected = model.encode_image(pixels)
    fuse_openai_tower(model.visual, torch.float32, CPU)
    torch.testing.assert_close(model.encode_image(pixels), expected, rtol=1e-4, atol=1e-4)


def test_pixels_beyond_the_last_whole_patch_are_left_out_as_a_convolution_does():
    convolution = nn.Conv2d(3, 5, 4, 4)
    images = torch.randn(2, 3, 11, 14)
    torch.testing.assert_close(PatchProjection(convolution)(images), convolution(images), rtol=1e-5, atol=1e-5)


def test_a_batch_spread_over_cores_has_the_features_of_its_pieces():
    encoder = ClipEncoder("tiny", tiny_clip("vit"), CPU, "fp32")
    side = encoder.pixels.crop[0]
    images = torch.randint(0, 256, (21, 3, side, side), dtype=torch.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = encoder.encode_images(images)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    alone = torch.cat([encoder._encode(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert cosine_distance(together[:1], together[1:2]) > 0
