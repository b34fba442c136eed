"""Shorter and more general forms of captions, and what counts as a right word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.consensus.caution import Words, all_right, cautious_forms, content_words, stem
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.features.base import stack_features
from clipcap_video.metrics.cider import caption_words, count_ngrams

RARITY = {"man": 0.4, "woman": 0.9, "person": 0.6, "playing": 1.1, "game": 1.8, "guitar": 3.0}


def forms(*captions: str, training: tuple[str, ...]) -> set[str]:
    """The forms of captions, where these are the training captions."""
    known: set[Words] = {ngram for text in training for ngram in count_ngrams(caption_words(text))}
    found = cautious_forms([tuple(caption_words(text)) for text in captions], known, lambda w: RARITY.get(w, 2.5))
    return {" ".join(words[:-1]) for words in found}


def test_what_follows_the_verb_may_go_where_people_end_there() -> None:
    training = ("a woman is playing a guitar", "a woman is playing a guitar on stage", "someone is cooking")
    assert forms("a woman is playing a guitar on stage", training=training) == {
        "a woman is playing a guitar",
        "someone is playing a guitar on stage",
        "someone is playing a guitar",
    }


def test_no_seam_that_nobody_wrote() -> None:
    # "a guitar" ends no training caption, and "someone is" is in none.
    assert forms("a woman is playing a guitar on stage", training=("a woman is playing a guitar on stage",)) == set()


def test_what_says_nothing_is_no_form() -> None:
    training = ("a man is playing a game", "a man is playing", "someone is playing a game")
    found = forms("a man is playing a game", training=training)
    assert "a man is playing" not in found
    assert "someone is playing" not in found
    assert "someone is playing a game" in found


def test_an_adjective_of_the_subject_may_go() -> None:
    training = ("a young woman is singing", "a woman is singing")
    assert "a woman is singing" in forms("a young woman is singing", training=training)


def test_the_verb_and_several_persons_stay() -> None:
    training = ("two men are wrestling on a mat", "a man and a woman are singing", "a woman is singing")
    found = forms("two men are wrestling on a mat", "a man and a woman are singing", training=training)
    assert not any(form.startswith("someone") for form in found)
    assert not any(form.split()[-1] in ("are", "a", "on", "and") for form in found)


def test_right_words() -> None:
    references = [caption_words("the girl talks about cooking"), caption_words("somebody dances")]
    assert content_words(caption_words("a girl is talking about the dance")) == ["girl", "talking", "dance"]
    assert stem("talks") == stem("talking") == stem("talked")
    assert all_right(caption_words("a girl is talking"), references)
    assert all_right(caption_words("someone is dancing"), references)
    assert not all_right(caption_words("a man is talking"), references)
    assert not all_right(caption_words("someone is there"), references)  # says nothing


def test_caution_says_less() -> None:
    captioner = Captioner.from_pretrained(device="cpu", precision="fp32")
    rng = np.random.default_rng(0)
    features = [rng.uniform(0, 1, (5, captioner.model.feature_dim)).astype(np.float32) for _ in range(6)]
    bold, careful = (
        captioner.caption_features(features, replace(captioner.default_settings(), beam_size=10, caution=caution))
        for caution in (0.0, 2.0)
    )
    said = [[captioner.model.decode_tokens(one[0].tokens).split() for one in found] for found in (bold, careful)]
    assert sum(map(len, map(content_words, said[1]))) < sum(map(len, map(content_words, said[0])))
    assert any(words[0] == "someone" for words in said[1])
    alone = [
        captioner.caption_features([one], replace(captioner.default_settings(), beam_size=10, caution=2.0))[0]
        for one in features
    ]
    assert [one[0].tokens for one in alone] == [one[0].tokens for one in careful]
    # A form has the log-probability that the model gives it.
    state = captioner.model.start(*stack_features(features[:1]), 40)
    best = careful[0][0]
    expected = forced_logprobs(state, [[*best.tokens, best.stop_token or 0]])
    assert best.logprob == pytest.approx(float(expected[0]), abs=1e-3)
