"""The consensus network: what it expects of captions, against CIDEr itself."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.consensus.config import UNSURE_BELOW
from clipcap_video.consensus.network import (
    INDEPENDENT_PEOPLE,
    Calibration,
    ConsensusConfig,
    ConsensusRanker,
    Judgement,
)
from clipcap_video.consensus.table import NgramTable
from clipcap_video.metrics.cider import END, CiderReward
from clipcap_video.models.checkpoint import CONSENSUS
from tests.tiny import WIDTH, captions_of, features_of

VOCABULARY = ["a", "man", "is", "riding", "on", "the", "brown", "horse", "in", "field", "and", "two", "dogs", "run"]


def predicting(ranker: ConsensusRanker, shares: torch.Tensor) -> ConsensusRanker:
    """The ranker, changed to predict these shares of every video."""
    last = ranker.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(shares.clamp(1e-9, 1 - 1e-7).logit())
    return ranker.eval()


@pytest.mark.parametrize("seed", range(4))
def test_expects_the_cider_that_comes_out_when_it_predicts_right(seed: int) -> None:
    """Of words and pairs that are equally rare, every n-gram of a caption weighs the same, and nothing is estimated:
    then, for captions of one length, the expectation is the score."""
    rng = random.Random(seed)
    # Every video has words of its own, so that all n-grams are in one video; two captions of it share some of them.
    videos = []
    for number in range(5):
        own = [f"{word}{number}" for word in VOCABULARY]
        videos.append([rng.sample(own, 7) for _ in range(3)])
    reward = CiderReward({str(number): captions for number, captions in enumerate(videos)})
    table = NgramTable.of(videos, 10_000)
    assert table.rarity.tolist() == pytest.approx([math.log(5)] * len(table.ngrams))
    ranker = ConsensusRanker(ConsensusConfig(feature_dim=3, hidden_dim=4), table)
    for number, captions in enumerate(videos):
        predicting(ranker, ranker.targets(captions))
        candidates = [rng.sample([f"{word}{number}" for word in VOCABULARY], 7) for _ in range(20)] + captions
        (found,) = ranker.judge(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), [candidates])
        assert [one.cider for one in found] == pytest.approx(reward.score(str(number), candidates), abs=1e-4)


def test_a_network_of_some_ngrams_says_the_same_of_them() -> None:
    torch.manual_seed(0)
    table = NgramTable.of([[captions_of(number)[0].split()] for number in range(9)], 200)
    ranker = ConsensusRanker(ConsensusConfig(WIDTH, 8), table).eval()
    places = [place for ngram, place in ranker.known.items() if len(ngram) == 1]
    narrow = ranker.narrowed(places)
    pooled = torch.randn(4, 2 * WIDTH)
    assert narrow.ngrams == [ngram for ngram in ranker.ngrams if len(ngram) == 1]
    torch.testing.assert_close(narrow(pooled), ranker(pooled)[:, places])
    assert torch.equal(narrow.rarity, ranker.rarity[places])


def test_the_order_is_that_of_cider_where_weights_are_estimated() -> None:
    rng = random.Random(1)
    common = ["a", "man", "is", "riding", "on", "the", "</s>"]

    def caption(number: int) -> list[str]:
        return [*rng.sample(common[:-1], 4), *rng.sample([f"{word}{number % 9}" for word in VOCABULARY], 3), "</s>"]

    videos = [[caption(number) for _ in range(8)] for number in range(40)]
    reward = CiderReward({str(number): captions for number, captions in enumerate(videos)})
    ranker = ConsensusRanker(ConsensusConfig(feature_dim=3, hidden_dim=4), NgramTable.of(videos, 400))
    correlations = []
    for number, captions in enumerate(videos):
        predicting(ranker, ranker.targets(captions))
        candidates = [caption(other) for other in range(20)]
        (found,) = ranker.judge(torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool), [candidates])
        correlations.append(np.corrcoef([one.cider for one in found], reward.score(str(number), candidates))[0, 1])
    assert np.mean(correlations) > 0.95


def test_support_is_how_often_somebody_says_the_words() -> None:
    """Against people drawn at random who each use a word as often as was predicted, and whom nobody else influences."""
    videos = [[["a", "dog", "runs"], ["a", "cat"]], [["two", "dogs"]], [["a", "dog", "sits"]]]
    table = NgramTable.of(videos, 100)
    ranker = ConsensusRanker(ConsensusConfig(feature_dim=3, hidden_dim=4), table)
    shares = {"a": 0.9, "dog": 0.3, "runs": 0.05}
    predicting(ranker, torch.tensor([shares.get(ngram[0], 0.0) if len(ngram) == 1 else 0.0 for ngram in table.ngrams]))
    rng, draws = np.random.default_rng(0), 100_000
    rarity = {"a": math.log(3 / 2), "dog": math.log(3 / 2), "runs": math.log(3), "zebra": float(table.unknown[0])}

    def simulated(caption: str) -> float:
        words = caption.split()
        said = {word: (rng.random((draws, INDEPENDENT_PEOPLE)) < shares.get(word, 0.0)).any(1).mean() for word in words}
        return sum(rarity[word] * said[word] for word in said) / sum(rarity[word] for word in words)

    captions = ["a dog runs", "a dog", "runs", "a zebra", "a dog a dog"]
    (found,) = ranker.judge(
        torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool), [[caption.split() for caption in captions]]
    )
    assert [one.support for one in found] == pytest.approx([simulated(caption) for caption in captions], abs=0.01)
    assert found[4].support == pytest.approx(found[1].support / 2)  # what is said twice is supported once


def test_targets_are_the_shares_of_captions() -> None:
    captions = [["a", "dog", "</s>"], ["a", "cat", "</s>"], ["a", "dog", "a", "dog"]]
    ranker = ConsensusRanker(ConsensusConfig(2), NgramTable.of([captions, [["two", "dogs"]]], 100))
    shares = dict(zip(ranker.ngrams, ranker.targets(captions).tolist(), strict=True))
    assert shares[("a",)] == pytest.approx(1.0)
    assert shares[("a", "dog")] == pytest.approx(2 / 3)
    assert shares[("cat", "</s>")] == pytest.approx(1 / 3)
    assert shares[("two",)] == 0.0


def test_folded_networks_say_the_mean_of_what_each_says() -> None:
    table = NgramTable.of([[["a", "dog"]], [["a", "cat", "runs"]]], 10)
    rankers = [ConsensusRanker(ConsensusConfig(WIDTH, hidden), table).eval() for hidden in (5, 3, 8)]
    for ranker in rankers:
        ranker.mean, ranker.std = torch.arange(2.0 * WIDTH), torch.arange(1.0, 2 * WIDTH + 1)
    one = ConsensusRanker.folded(rankers)
    pooled = one.pool(torch.randn(4, 3, WIDTH), torch.ones(4, 3, dtype=torch.bool))
    torch.testing.assert_close(one(pooled), torch.stack([ranker(pooled) for ranker in rankers]).mean(0))
    assert one.config.hidden_dim == 16


def test_padded_frames_do_not_count() -> None:
    ranker = ConsensusRanker(ConsensusConfig(WIDTH), NgramTable.of([[["a", "dog"]], [["a", "cat"]]], 10))
    frames = torch.from_numpy(features_of(1, frames=3))
    padded = torch.cat([frames, torch.full((2, WIDTH), 99.0)])
    mask = torch.tensor([[True] * 3 + [False] * 2])
    assert torch.equal(ranker.pool(padded[None], mask)[0, :WIDTH], ranker.pool(frames[None], mask[:, :3])[0, :WIDTH])
    expected = torch.cat([frames.mean(0), frames.amax(0)])
    torch.testing.assert_close(ranker.pool(padded[None], mask)[0], expected)


def test_it_predicts_what_people_say(ranked: Path) -> None:
    """Of unseen videos, a caption that is right is expected to score more than one of another video."""
    ranker = ConsensusRanker.load(ranked / "out" / "best" / CONSENSUS)
    right = wrong = 0.0
    for number in range(108, 120):
        frames = torch.from_numpy(features_of(number))[None]
        captions = [[*captions_of(shown)[0].split(), END] for shown in (number, number + 1)]
        ((mine, other),) = ranker.judge(frames, torch.ones(frames.shape[:2], dtype=torch.bool), [captions])
        right, wrong = right + mine.cider, wrong + other.cider
        assert mine.support > other.support
    assert right > 2 * wrong


def test_the_threshold_of_unsure_is_kept_with_the_network(tmp_path: Path) -> None:
    table = NgramTable.of([[["a", "dog"]], [["a", "cat"]]], 10)
    for below in (UNSURE_BELOW, 0.5):
        ConsensusRanker(ConsensusConfig(WIDTH, 4, unsure_below=below), table).save(tmp_path / CONSENSUS)
        ranker = ConsensusRanker.load(tmp_path / CONSENSUS)
        judged = [Judgement(1.0, support, 0.5) for support in (below - 0.01, below)]
        assert [ranker.is_unsure(one, 0.0) for one in judged] == [True, False]


def test_a_calibration_decides_where_there_is_one(tmp_path: Path) -> None:
    table = NgramTable.of([[["a", "dog"]], [["a", "cat"]]], 10)
    fitted = (Calibration(2.0, 1.0, 0.0, 0.7), Calibration(0.0, 0.5, -1.0, 0.4))
    ConsensusRanker(ConsensusConfig(WIDTH, 4, calibrations=fitted), table).save(tmp_path / CONSENSUS)
    ranker = ConsensusRanker.load(tmp_path / CONSENSUS)
    assert ranker.config.calibrations == fitted
    assert ranker.caution == 2.0
    assert [ranker.is_unsure(Judgement(0.0, 1.0, sure), 3.0) for sure in (0.69, 0.71)] == [True, False]
    assert ranker.config.calibration(0.4) is not None
    assert fitted[1].probability(0.8) == pytest.approx(1 / (1 + np.exp(-0.5 * np.log(4) + 1)))
