"""Texts in the space of a text encoder."""

from __future__ import annotations

import torch

from clipcap_video.training.texts import embed_once
from tests.bag_of_words import BagOfWords


def test_embeddings_of_repeated_texts() -> None:
    texts = ["a dog", "a cat", "a dog"]
    before = BagOfWords.asked
    found = embed_once(BagOfWords(), texts)
    assert BagOfWords.asked == before + 2
    assert torch.equal(found.float(), BagOfWords().encode_text(texts))
