"""An encoder that is trained along with the captioner: its early layers frozen, its later ones fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from clipcap_video.encoders.base import ImageEncoder, NetworkEncoder
from clipcap_video.encoders.weights import StateDict, digest_weights, read_state_dict
from clipcap_video.errors import ClipcapError

# Frames that pass through the network at once: what its early layers hold is the largest part of the memory.
FRAMES_AT_ONCE = 64


class TrainableEncoder(nn.Module):
    """Pixels of frames -> frame features, with a gradient for the layers from `freeze_until` on.

    encoder: one with `stages` (convolutional networks). freeze_until: the first stage that is trained.
    normalize: divide each frame's features by their L2 norm, where stored features are so.

    Batch norms are part of the convolutions before them (`weights.fold_batch_norms`), so their statistics stay those
    of ImageNet: those of a batch of frames, a few videos' worth, would be no estimate of anything.
    """

    def __init__(self, encoder: ImageEncoder, freeze_until: str, normalize: bool = False) -> None:
        super().__init__()
        if not isinstance(encoder, NetworkEncoder) or not encoder.stages:
            raise ClipcapError(
                f"the layers of encoder {encoder.name} cannot be trained here; use --train_encoder head, or features "
                "of resnet18 to resnet152 or efficientnet-lite0 to 4"
            )
        if freeze_until not in encoder.stages:
            raise ClipcapError(
                f"encoder {encoder.name} has no stage {freeze_until!r}; use one of {', '.join(encoder.stages)}"
            )
        self.encoder = encoder
        self.normalize = normalize
        self.network = encoder.network
        names = list(encoder.stages)
        for stage in names[names.index(freeze_until) :]:
            for module in encoder.stages[stage]:
                module.requires_grad_(True)

    def train(self, mode: bool = True) -> TrainableEncoder:
        super().train(mode)
        self.network.eval()  # what a network drops at random in training would also be dropped in its frozen layers
        return self

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S], preprocessed -> float32 [n, D]."""
        features = torch.cat([self._encode(part) for part in images.split(FRAMES_AT_ONCE)])
        return nn.functional.normalize(features, dim=-1) if self.normalize else features

    def _encode(self, images: Tensor) -> Tensor:
        return self.encoder.image_features(self.encoder.prepare(images)).float()

    def trained_weights(self) -> StateDict:
        """The weights that are trained, on the CPU."""
        return dict(_named(self.network, trained_only=True))

    def digest(self) -> str:
        """Of all weights as they are now; no encoder of another training has it."""
        return digest_weights(self.network)


def load_trained_layers(encoder: ImageEncoder, file: Path) -> None:
    """Puts the layers that a run has trained, as `TrainableEncoder.trained_weights` gave them, into `encoder`.

    Raises ClipcapError when the file is missing, damaged or of another encoder.
    """
    assert isinstance(encoder, NetworkEncoder)
    trained = read_state_dict(file)
    state = dict(_named(encoder.network))
    for name, tensor in trained.items():
        if name not in state or state[name].shape != tensor.shape:
            raise ClipcapError(f"{file} does not fit encoder {encoder.name} (tensor {name}); the checkpoint is damaged")
    encoder.network.load_state_dict(trained, strict=False)


def _named(network: nn.Module, trained_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        if parameter.requires_grad or not trained_only:
            yield name, parameter.detach().cpu().contiguous()
