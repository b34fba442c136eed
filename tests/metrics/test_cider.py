from __future__ import annotations

import random

import pytest
from pycocoevalcap.cider.cider import Cider

from clipcap_video.metrics.cider import CiderReward

VOCABULARY = "a man is riding on the brown horse in field and two dogs run </s>"


def words_of(text: str) -> list[str]:
    return text.split()


def made_captions(seed: int, videos: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """References and one candidate a video: random texts of 1 to 14 words of a small vocabulary."""
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choices(words_of(VOCABULARY), k=rng.randint(1, 14)))

    names = [f"video{number}" for number in range(videos)]
    return {name: [text() for _ in range(rng.randint(1, 7))] for name in names}, {name: [text()] for name in names}


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_official_scorer(seed: int) -> None:
    references, candidates = made_captions(seed, videos=23)
    _, official = Cider().compute_score(references, candidates)
    reward = CiderReward({name: [text.split() for text in texts] for name, texts in references.items()})
    ours = [reward.score(name, [candidates[name][0].split()])[0] for name in references]
    assert ours == pytest.approx(official.tolist(), abs=1e-6)


def test_a_caption_does_not_depend_on_those_scored_with_it() -> None:
    references, candidates = made_captions(7, videos=9)
    reward = CiderReward({name: [text.split() for text in texts] for name, texts in references.items()})
    captions = [texts[0].split() for texts in candidates.values()]
    together = reward.score("video3", captions)
    assert together == [reward.score("video3", [caption])[0] for caption in captions]


def test_an_empty_caption_and_unknown_words_score_nothing() -> None:
    references, _ = made_captions(8, videos=5)
    reward = CiderReward({name: [text.split() for text in texts] for name, texts in references.items()})
    assert reward.score("video1", [[], ["zebra", "zebra"]]) == [0.0, 0.0]


def test_the_end_counts() -> None:
    """Of two captions that differ in where they end, the one that ends as the references do scores higher."""
    captions = {
        "video0": [words_of("a man is riding on the horse </s>"), words_of("a man rides </s>")],
        "video1": [words_of("two dogs run in the field </s>")],
    }
    whole, broken = CiderReward(captions).score(
        "video0", [words_of("a man is riding on the horse </s>"), words_of("a man is riding on the </s>")]
    )
    (open_end,) = CiderReward(captions).score("video0", [words_of("a man is riding on the horse")])
    assert whole > open_end > broken
