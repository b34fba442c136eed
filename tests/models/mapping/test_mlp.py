"""The perceptron's tokens, shared out over time."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.mapping.mlp import MLPMapping, resampling_weights


def test_resampling_is_the_identity_for_as_many_tokens_as_frames() -> None:
    weights = resampling_weights(torch.tensor([[True, True, True, False]]), 3)
    torch.testing.assert_close(weights[0], torch.eye(3, 4))


def test_resampling_shares_time() -> None:
    # Three frames on two tokens: the middle frame is half of each token's second half or first half.
    weights = resampling_weights(torch.ones(1, 3, dtype=torch.bool), 2)
    torch.testing.assert_close(weights[0], torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_every_token_is_a_mean_and_every_frame_counts_alike(frames: int, tokens: int, padding: int) -> None:
    mask = torch.arange(frames + padding)[None] < frames
    (weights,) = resampling_weights(mask, tokens)
    torch.testing.assert_close(weights.sum(1), torch.ones(tokens))
    torch.testing.assert_close(weights.sum(0)[:frames], torch.full((frames,), tokens / frames))
    assert not weights[:, frames:].any()


def test_one_vector_becomes_all_tokens_as_in_image_clipcap() -> None:
    config = MappingConfig("mlp", 4, 6, 3, 1, input_norm=False, temporal_positions=False, tokens_per_frame=3)
    torch.manual_seed(0)
    mapping = MLPMapping(config)
    picture = torch.randn(1, 1, 4)
    expected = mapping.project(torch.tanh(mapping.frames.linear(picture[0, 0]))).reshape(3, 6)
    torch.testing.assert_close(mapping(picture, torch.ones(1, 1, dtype=torch.bool))[0], expected)
