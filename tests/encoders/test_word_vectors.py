"""The text encoder in the box: means of word vectors."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from clipcap_video.encoders import load_text_encoder
from clipcap_video.encoders.word_vectors import STARTER, VECTORS


def test_a_text_is_the_mean_of_its_vectors_in_lower_case_at_unit_length() -> None:
    encoder = load_text_encoder("starter", torch.device("cpu"))
    vectors = load_file(STARTER / "model.safetensors")[VECTORS].float()
    tokens = AutoTokenizer.from_pretrained(STARTER / "tokenizer")("a man is cooking")["input_ids"]
    expected = vectors[tokens].mean(0)
    found = encoder.encode_text(["A man is cooking", "", "a dog", "a man is cooking"])
    assert found.shape == (4, encoder.dim)
    torch.testing.assert_close(found[0], expected / expected.norm())
    assert torch.equal(found[0], found[3])
    assert not found[1].any()
    assert encoder.encode_text([]).shape == (0, encoder.dim)
