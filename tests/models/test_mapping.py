from __future__ import annotations

import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.models.mapping import MAPPING_NETWORKS, build_mapping
from clipcap_video.models.mapping.base import MappingConfig


def make(mapping_type: str, **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    values = {"feature_dim": 16, "embedding_dim": 24, "prefix_length": 5, "max_frames": 6, "num_layers": 2}
    return build_mapping(MappingConfig(mapping_type, **(values | changes))).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("mapping_type", list(MAPPING_NETWORKS))
class TestEveryNetwork:
    @pytest.mark.parametrize(("frames", "prefix"), [(1, 1), (1, 7), (6, 2), (3, 5), (6, 6)])
    def test_any_frame_count_and_prefix_length(self, mapping_type: str, frames: int, prefix: int) -> None:
        mapping = make(mapping_type, prefix_length=prefix)
        out = mapping(torch.randn(2, frames, 16), torch.ones(2, frames, dtype=torch.bool))
        assert out.shape == (2, prefix, 24)
        assert out.isfinite().all()

    def test_padded_frames_have_no_influence(self, mapping_type: str) -> None:
        mapping = make(mapping_type)
        video = torch.randn(1, 3, 16)
        alone = mapping(video, torch.ones(1, 3, dtype=torch.bool))
        padded = torch.cat([video, torch.full((1, 3, 16), 1e3)], dim=1)
        mask = torch.tensor([[True, True, True, False, False, False]])
        torch.testing.assert_close(mapping(padded, mask), alone, atol=1e-5, rtol=1e-5)

    def test_order_of_frames_matters_only_with_temporal_positions(self, mapping_type: str) -> None:
        video, mask = torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool)
        ordered = make(mapping_type)
        assert not torch.allclose(ordered(video, mask), ordered(video.flip(1), mask), atol=1e-3)
        if mapping_type != "mlp":  # its prefix tokens are frames in order, so it always knows
            unordered = make(mapping_type, temporal_positions=False)
            torch.testing.assert_close(unordered(video, mask), unordered(video.flip(1), mask), atol=1e-5, rtol=1e-5)

    def test_normalising_makes_the_scale_of_a_feature_irrelevant(self, mapping_type: str) -> None:
        mapping = make(mapping_type, normalize_prefix=True, input_norm=False)
        video, mask = torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool)
        torch.testing.assert_close(mapping(7 * video, mask), mapping(video, mask))

    def test_every_frame_and_weight_gets_a_gradient(self, mapping_type: str) -> None:
        mapping = make(mapping_type)
        video = torch.randn(2, 6, 16, requires_grad=True)
        mapping(video, torch.ones(2, 6, dtype=torch.bool)).square().sum().backward()
        assert (video.grad.abs().sum(-1) > 0).all()
        assert [name for name, p in mapping.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_several_tokens_a_frame(self, mapping_type: str) -> None:
        mapping = make(mapping_type, tokens_per_frame=3, hidden_dim=7)
        video = torch.randn(1, 2, 16)
        alone = mapping(video, torch.ones(1, 2, dtype=torch.bool))
        assert alone.shape == (1, 5, 24)
        padded = torch.cat([video, torch.full((1, 1, 16), 1e3)], dim=1)
        torch.testing.assert_close(mapping(padded, torch.tensor([[True, True, False]])), alone, atol=1e-5, rtol=1e-5)
        # One vector becomes tokens that differ from each other.
        if mapping_type == "mlp":
            tokens = make("mlp", tokens_per_frame=5, temporal_positions=False)(video[:, :1], torch.ones(1, 1).bool())
            assert (tokens[0, :1] - tokens[0, 1:]).abs().amax(1).min() > 1e-2

    def test_more_frames_than_positions_are_stretched(self, mapping_type: str) -> None:
        mapping = make(mapping_type, max_frames=3)
        assert mapping(torch.randn(1, 9, 16), torch.ones(1, 9, dtype=torch.bool)).isfinite().all()


def test_unknown_network_is_named() -> None:
    with pytest.raises(ClipcapError, match=r"'lstm'.*mlp, transformer, cross"):
        make("lstm")
