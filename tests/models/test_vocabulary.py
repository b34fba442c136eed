"""Whole words and their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from clipcap_video.errors import ClipcapError
from clipcap_video.models.vocabulary import subword_tokenizer, word_tokenizer


def test_counts_words_of_any_case_without_punctuation() -> None:
    tokenizer = word_tokenizer(["A man's dog, a well-known one.", "the DOG!", "Ein Café? a dog"], min_count=2)
    assert tokenizer.get_vocab() == {"</s>": 0, "<unk>": 1, "a": 2, "dog": 3}
    everything = word_tokenizer(["A man's dog, a well-known one."], min_count=1)
    assert sorted(everything.get_vocab()) == ["</s>", "<unk>", "a", "dog", "man's", "one", "well-known"]
    ids = everything("Dog, dog; a cat's one!", add_special_tokens=False)["input_ids"]
    assert everything.decode(ids) == "dog dog a <unk> one"


def test_equal_counts_are_in_the_order_of_the_alphabet() -> None:
    vocabulary = word_tokenizer(["b a c", "c a b d d d"], 1).get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__) == ["</s>", "<unk>", "d", "a", "b", "c"]


def test_no_word_left_is_an_error() -> None:
    with pytest.raises(ClipcapError, match="lower --min_count"):
        word_tokenizer(["one two", "three"], 5)


def test_subwords_end_in_the_end_of_their_own_tokenizer(tiny_lm: Path, tmp_path: Path) -> None:
    tokenizer = subword_tokenizer(str(tiny_lm))
    assert tokenizer.eos_token_id is not None
    assert subword_tokenizer(str(tiny_lm / "tokenizer.json")).get_vocab() == tokenizer.get_vocab()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, sep_token=tokenizer.eos_token)
    made.save_pretrained(tmp_path / "bert")
    assert subword_tokenizer(str(tmp_path / "bert")).eos_token_id == tokenizer.eos_token_id
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path / "endless")
    with pytest.raises(ClipcapError, match="has no end-of-text token; captions could not end"):
        subword_tokenizer(str(tmp_path / "endless"))
