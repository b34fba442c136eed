"""Encoders that are trained along with a captioner: which of their layers learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipcap_video.encoders.base import NetworkEncoder
from clipcap_video.encoders.trainable import TrainableEncoder, load_trained_layers
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError
from tests.encoders.trainable_encoders import TRAINABLE, trainable_encoder

Load = Callable[[], NetworkEncoder]


@pytest.fixture(scope="module", params=TRAINABLE)
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Load:
    return trainable_encoder(request.param, tmp_path_factory.mktemp(request.param))[0]


@pytest.mark.parametrize("freeze_until", ["stem", "layer3", "layer4"])
def test_gradients_reach_the_stages_from_the_named_one_on(load: Load, freeze_until: str) -> None:
    encoder = load()
    names = list(encoder.stages)
    assert names == ["stem", "layer1", "layer2", "layer3", "layer4"]
    trainable = TrainableEncoder(encoder, freeze_until).train()
    assert not any(module.training for module in trainable.network.modules())
    images = encoder.preprocess(torch.randint(256, (1, 3, 80, 60), dtype=torch.uint8))
    features = trainable(images)
    torch.testing.assert_close(features.detach(), encoder.encode_images(images), rtol=1e-4, atol=1e-4)
    features.sum().backward()
    got = {name for name, parameter in trainable.named_parameters() if parameter.grad is not None}
    wanted = {
        id(p) for stage in names[names.index(freeze_until) :] for m in encoder.stages[stage] for p in m.parameters()
    }
    assert got == {name for name, parameter in trainable.named_parameters() if id(parameter) in wanted}
    assert got == {f"network.{name}" for name in trainable.trained_weights()}
    if freeze_until == "stem":  # the stages are the whole network, but for a classifier that is not used
        assert {name for name, _ in trainable.named_parameters()} - got <= {
            "network._fc.weight",
            "network._fc.bias",
        }


def test_what_cannot_be_trained_is_refused(load: Load) -> None:
    encoder = load()
    with pytest.raises(ClipcapError, match="no stage 'layer9'; use one of stem, layer1"):
        TrainableEncoder(encoder, "layer9")
    encoder.stages = {}
    with pytest.raises(ClipcapError, match="cannot be trained here; use --train_encoder head"):
        TrainableEncoder(encoder, "layer4")


def test_layers_that_were_trained_are_put_back_to_the_bit(load: Load, tmp_path: Path) -> None:
    trained = TrainableEncoder(load(), "layer4").train()
    with torch.no_grad():
        for weights in trained.trained_weights().values():
            weights.add_(torch.rand_like(weights) / 100)
    save_file(trained.trained_weights(), tmp_path / "layers.safetensors")
    encoder = load()
    before = digest_weights(encoder.network)
    load_trained_layers(encoder, tmp_path / "layers.safetensors")
    assert digest_weights(encoder.network) == trained.digest() != before
    save_file({"of.another.network": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ClipcapError, match=r"does not fit encoder .* \(tensor of\.another\.network\)"):
        load_trained_layers(encoder, tmp_path / "other.safetensors")
