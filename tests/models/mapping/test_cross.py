"""The network whose constants attend to frames that stay as they are."""

from __future__ import annotations

import torch

from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.mapping.cross import CrossMapping


def cross(**changes: object) -> CrossMapping:
    torch.manual_seed(0)
    values = {"feature_dim": 4, "embedding_dim": 8, "prefix_length": 3, "max_frames": 6, "num_layers": 2}
    return CrossMapping(MappingConfig("cross", **(values | changes))).eval()  # type: ignore[arg-type]


def test_each_token_of_the_prefix_is_made_by_itself() -> None:
    """Constants do not see each other, so that one alone becomes what it becomes among others."""
    whole, one = cross(), cross(prefix_length=1)
    video, mask = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    for place in range(3):
        one.load_state_dict({**whole.state_dict(), "prefix_const": whole.prefix_const[place : place + 1]})
        torch.testing.assert_close(one(video, mask)[:, 0], whole(video, mask)[:, place])


def test_frames_do_not_see_each_other() -> None:
    """All layers see the same frames: those of a video of equal frames are as one of them alone."""
    mapping = cross(temporal_positions=False)
    frame = torch.randn(1, 1, 4)
    alone = mapping(frame, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(mapping(frame.expand(1, 6, 4), torch.ones(1, 6, dtype=torch.bool)), alone)
