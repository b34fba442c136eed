"""What all mapping networks do to frames first."""

from __future__ import annotations

import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.models.mapping.base import FrameInput, MappingConfig, temporal_positions


def test_temporal_positions_stretch_linearly() -> None:
    table = torch.tensor([[0.0], [1.0], [4.0]])
    torch.testing.assert_close(temporal_positions(table, 2), table[:2])
    torch.testing.assert_close(temporal_positions(table, 5), torch.tensor([[0.0], [0.5], [1.0], [2.5], [4.0]]))


@pytest.mark.parametrize("name", ["feature_dim", "prefix_length", "max_frames", "num_layers", "tokens_per_frame"])
def test_sizes_of_nothing_are_refused(name: str) -> None:
    values = {"feature_dim": 4, "embedding_dim": 6, "prefix_length": 3, "max_frames": 2} | {name: 0}
    with pytest.raises(ClipcapError, match=f"{name} must be at least 1, not 0"):
        MappingConfig("mlp", **values)


def test_tokens_of_a_frame_stand_together_in_the_order_of_frames() -> None:
    config = MappingConfig("mlp", 2, 6, 3, 4, input_norm=False, normalize_prefix=True)
    frames = FrameInput(config, width=3, tokens=2)
    video = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]])
    unit = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    assert frames.positions is not None
    expected = (unit @ frames.linear.weight.T + frames.linear.bias).reshape(6, 3) + frames.positions[:6]
    torch.testing.assert_close(frames(video)[0], expected)
