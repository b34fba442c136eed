"""Features of one video and of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import VideoFeatures, checked, stack_features, thin_frames


def test_thinning_keeps_first_and_last_frame() -> None:
    video = VideoFeatures(np.arange(10.0)[:, None], np.arange(10.0))
    thin = thin_frames(video, 4)
    assert thin.features[:, 0].tolist() == [0, 3, 6, 9]
    assert thin.timestamps is not None
    assert thin.timestamps.tolist() == [0, 3, 6, 9]
    assert thin_frames(video, 10) is video


def test_a_batch_is_padded_to_its_longest_video() -> None:
    features, mask = stack_features([np.ones((2, 3)), np.full((4, 3), 2.0)], at_least=5)
    assert features.dtype == torch.float32
    assert features[:, :, 0].tolist() == [[1, 1, 0, 0, 0], [2, 2, 2, 2, 0]]
    assert mask.tolist() == [[True, True, False, False, False], [True, True, True, True, False]]
    pixels, _ = stack_features([np.full((1, 3, 2, 2), 255, np.uint8), np.zeros((2, 3, 2, 2), np.uint8)])
    assert (pixels.dtype, pixels.sum().item()) == (torch.uint8, 255 * 12)


@pytest.mark.parametrize(
    ("features", "times", "problem"),
    [
        (np.zeros((2, 3), np.int64), None, "features of the type int64"),
        (np.zeros((0, 3)), None, r"features of shape \[0, 3\]"),
        (np.array([[0, 0], [0, np.inf]], np.float16), None, "a feature of frame 1 that is no finite number"),
        (np.array([[0, np.nan]], np.float32), None, "a feature of frame 0"),
        (np.zeros((2, 3)), np.zeros(3), r"times of shape \[3\] for 2 frames"),
        (np.zeros((2, 3)), np.array([1.0, 0.5]), "times that are no numbers or run backwards"),
        (np.zeros((2, 3)), np.array([0.0, np.nan]), "times that are no numbers"),
    ],
)
def test_what_no_extractor_writes_is_refused(features: np.ndarray, times: np.ndarray | None, problem: str) -> None:
    with pytest.raises(ClipcapError, match=f"a.npy holds {problem}.*; delete it and extract again"):
        checked(features, times, "a.npy")


def test_the_largest_halves_are_numbers() -> None:
    features = np.array([[np.finfo(np.float16).max, np.finfo(np.float16).smallest_subnormal, -0.0]], np.float16)
    np.testing.assert_array_equal(checked(features, np.zeros(1), "a").features, features.astype(np.float32))
