"""CLIP with patches over time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.retrieval.video_clip import TEMPORAL, VideoClip
from tests.tiny_clip import save_tiny_clip, tiny_clip


class TestVideoClip:
    def test_a_fresh_3d_projection_sees_each_frame_as_the_2d_one_does(self, tmp_path: Path) -> None:
        weights = dict(tiny_clip().state_dict())
        flat, deep = (VideoClip(weights, tmp_path, patch).eval() for patch in ("2d", "3d"))
        images = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
        mask = torch.tensor([[True, True, True], [True, False, False]])
        with torch.no_grad():
            torch.testing.assert_close(deep.encode_frames(images, mask), flat.encode_frames(images, mask))
        kernel = deep.network.visual.conv2.weight
        assert torch.equal(kernel[:, :, 1], weights["visual.conv1.weight"])
        assert not kernel[:, :, [0, 2]].any()
        assert VideoClip(weights | {TEMPORAL: kernel}, tmp_path).linear_patch == "3d"

    def test_freezing(self, tmp_path: Path) -> None:
        def trained(layers: int, patch: str = "2d") -> set[str]:
            clip = VideoClip(dict(tiny_clip().state_dict()), tmp_path, patch)
            clip.freeze(layers)
            return {name for name, weight in clip.network.named_parameters() if weight.requires_grad}

        everything = set(dict(tiny_clip().named_parameters()))
        assert trained(-1) == everything
        bottom = {"positional_embedding", "token_embedding.weight", "visual.conv1.weight", "visual.class_embedding"}
        bottom |= {"visual.positional_embedding", "visual.ln_pre.weight", "visual.ln_pre.bias"}
        assert everything - trained(0) == bottom
        assert everything - trained(1) == bottom | {name for name in everything if "resblocks.0." in name}
        assert "visual.conv2.weight" in trained(12, "3d")

    def test_a_resnet_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ClipcapError, match="retrieval trains those with a vision transformer"):
            VideoClip(dict(tiny_clip("resnet").state_dict()), tmp_path)


def test_the_tiny_clip_of_the_tests_is_one(tmp_path: Path) -> None:
    assert VideoClip(dict(torch.load(save_tiny_clip(tmp_path / "c.pt"))), tmp_path).dim == 48
