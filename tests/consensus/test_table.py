"""Tables of n-grams, against counting by hand."""

from __future__ import annotations

import math

import pytest
import torch

from clipcap_video.consensus.table import NgramTable, length_penalty
from clipcap_video.metrics.cider import SIGMA, caption_words


def test_it_counts_videos_and_lengths() -> None:
    table = NgramTable.of([[["a", "dog"], ["a", "cat"]], [["a", "dog", "runs"]]], 100)
    rarity = dict(zip(table.ngrams, table.rarity.tolist(), strict=True))
    assert rarity["a",] == rarity["a", "dog"] == 0.0  # both videos have them
    assert rarity["cat",] == rarity["a", "dog", "runs"] == pytest.approx(math.log(2))
    assert table.lengths[:4].tolist() == pytest.approx([0, 0, 2 / 3, 1 / 3])
    assert table.ngrams[0] == ("a",)  # in most captions


def test_a_caption_as_long_as_all_others_loses_nothing() -> None:
    lengths = [0.0, 0.0, 0.0, 1.0]
    assert length_penalty(3, lengths) == 1.0
    assert length_penalty(5, lengths) == pytest.approx(math.exp(-4 / (2 * SIGMA**2)))


def test_n_grams_of_another_table_come_behind() -> None:
    def words(*texts: str) -> list[list[str]]:
        return [caption_words(text) for text in texts]

    table = NgramTable.of([words("a dog runs", "the dog runs"), words("a cat sits")], 6)
    other = NgramTable.of([words("a dog swims"), words("a dog swims", "snow")], 100)
    longer = table.extended(other, 3)
    assert longer.ngrams[:6] == table.ngrams
    added = [ngram for ngram in other.ngrams if ngram not in table.ngrams][:3]
    assert longer.ngrams[6:] == added
    assert longer.rarity[6:].tolist() == [table.unknown[len(ngram) - 1] for ngram in added]
    assert longer.weight[6:].tolist() == [other.weight[other.ngrams.index(ngram)] for ngram in added]
    assert torch.equal(longer.rarity[:6], table.rarity)
