"""A text encoder for tests of retrieval: no weights, and texts that share words lie close."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import clipcap_video.encoders as encoders
import clipcap_video.retrieval.building as retrieval
import clipcap_video.training.objectives.contrastive as contrastive


class BagOfWords:
    """A text encoder: which words a text has, hashed; counts what it is asked."""

    name, dim, weights_digest = "bag-of-words", 24, "sha256:1"
    asked = 0

    def encode_text(self, texts: list[str]) -> Tensor:
        BagOfWords.asked += len(texts)
        vectors = torch.zeros(len(texts), self.dim)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, sum(map(ord, word)) % self.dim] += 1
        return vectors


def use_bag_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs find it as the text encoder "bag-of-words"."""
    load = encoders.load_text_encoder

    def named(name: str, *options: Any) -> Any:
        return BagOfWords() if name == "bag-of-words" else load(name, *options)

    for module in (encoders, retrieval, contrastive):
        monkeypatch.setattr(module, "load_text_encoder", named)
