"""The fit of a consensus network: what it is told of each video, and what becomes of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.consensus.config import FitConfig
from clipcap_video.consensus.fit import FitData, fit, pooled_videos
from clipcap_video.features.layouts import open_features
from tests.tiny import WIDTH, features_of, write_feature_folder

CPU = torch.device("cpu")
WORDS = [[["a", "dog"], ["the", "dog"]], [["a", "cat"]], [["two", "birds"], ["birds"]]]
QUICK = FitConfig(networks=1, hidden=8, epochs=60, bs=4, lr=0.05, dropout=0.0, mixup=0.0)


def share(data: FitData, row: int, word: str) -> float:
    return float(data.shares[row, data.table.ngrams.index((word,))])


def test_shares_are_of_people_and_inputs_standard() -> None:
    pooled = torch.tensor([[1.0, 5.0], [3.0, 5.0], [100.0, 9.0]])
    data = FitData.of(WORDS, np.array([0, 0, 1]), pooled, 50)
    assert [share(data, 0, word) for word in ("dog", "a", "cat")] == pytest.approx([1, 0.5, 0])
    # By what is usual in the first annotation file, whatever the others have.
    assert data.mean.tolist() == [2, 5]
    assert data.std.tolist() == pytest.approx([2**0.5 + 1e-3, 1e-3])
    torch.testing.assert_close(data.inputs * data.std + data.mean, pooled)
    assert data.origins.tolist() == [[1, 0], [1, 0], [0, 1]]


def test_n_grams_of_further_files_come_behind_and_what_is_usual_is_of_each_file() -> None:
    data = FitData.of(WORDS, np.array([0, 0, 1]), torch.randn(3, 4), 50)
    alone = FitData.of(WORDS[:2], np.array([0, 0]), torch.randn(2, 4), 50)
    assert data.table.ngrams[: len(alone.table.ngrams)] == alone.table.ngrams
    assert ("birds",) in data.table.ngrams
    usual = data.usual.sigmoid()[:, data.table.ngrams.index(("dog",))]
    assert usual.tolist() == pytest.approx([0.5, 0], abs=1e-4)


def test_it_learns_what_people_say_the_same_way_each_time_and_otherwise_by_another_seed() -> None:
    pooled = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    data = FitData.of(WORDS, np.zeros(3, np.int64), pooled, 50)
    one, again, other = (fit(data, config, CPU) for config in (QUICK, QUICK, FitConfig(**{**vars(QUICK), "seed": 1})))
    assert all(torch.equal(mine, same) for mine, same in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))
    with torch.inference_mode():
        said = one(data.inputs).sigmoid()
    torch.testing.assert_close(said, data.shares, atol=0.15, rtol=0)


def test_videos_are_pooled_from_the_frames_that_a_captioner_sees(tmp_path: Path) -> None:
    store = open_features(write_feature_folder(tmp_path / "features", range(4)))
    pooled = pooled_videos(store, ["video3", "video1"], max_frames=3)
    for row, number in zip(pooled, (3, 1), strict=True):
        frames = features_of(number).astype(np.float16).astype(np.float32)
        kept = frames if len(frames) <= 3 else frames[[0, len(frames) // 2, len(frames) - 1]]
        expected = np.concatenate([kept.mean(0), kept.max(0)])
        np.testing.assert_allclose(row[: 2 * WIDTH].numpy(), expected, atol=1e-5)
