"""Prefix captioners against a plain use of their language model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import stack_features
from clipcap_video.models.packing import pack
from tests.decoding_models import clipcap_beam
from tests.prefix_models import batch_of, build
from tests.tiny import features_of


@pytest.mark.parametrize("llama", [False, True], ids=["gpt2", "llama"])
def test_cached_lanes_give_the_logits_of_whole_sequences(tiny_lm: Path, llama: bool) -> None:
    """Random walks over lanes: parents swapped, doubled and dropped, videos leaving; every logit recomputed plainly."""
    model = build(tiny_lm, llama=llama)
    rng = np.random.default_rng(0)
    features, mask = stack_features([features_of(number) for number in range(4)])
    with torch.no_grad():
        prefixes = model.mapping(features, mask)
        state = model.start(features, mask, 12)
        logits = state.begin()[:, None]
        history: list[list[list[int]]] = [[[]] for _ in range(4)]
        for step in range(10):
            for row, lanes in enumerate(history):
                for lane, tokens in enumerate(lanes):
                    embedded = prefixes[row : row + 1]
                    if tokens:
                        own = model.language_model.get_input_embeddings()(torch.tensor([tokens]))
                        embedded = torch.cat([embedded, own], dim=1)
                    expected = model.language_model(inputs_embeds=embedded).logits[0, -1]
                    torch.testing.assert_close(logits[row, lane], expected, atol=1e-5, rtol=1e-4)
            if step in (3, 6):
                kept = torch.tensor([0, 2, 3] if step == 3 else [1])
                state.keep(kept)
                prefixes, history = prefixes[kept], [history[row] for row in kept.tolist()]
            parents = rng.integers(0, 3 if step else 1, size=(len(history), 3))
            tokens = rng.integers(0, len(model.tokenizer), size=(len(history), 3))
            history = [
                [[*history[row][parents[row, lane]], int(tokens[row, lane])] for lane in range(3)]
                for row in range(len(history))
            ]
            logits = state.step(torch.from_numpy(tokens), torch.from_numpy(parents))


def test_beams_of_random_models_are_those_of_the_clipcap_program(tiny_lm: Path) -> None:
    """Batched and cached here, one video at a time and uncached there: 40 models of three videos each."""
    model = build(tiny_lm)
    object.__setattr__(model.config, "stop_text", ".")
    (stop,) = model.stop_tokens
    features, mask = stack_features([features_of(number) for number in range(3)])
    settings = DecodingSettings(entry_length=6, beam_size=4, num_return=4, complete=False)
    embed = model.language_model.get_input_embeddings()
    stopped = 0
    for seed in range(40):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
        # A stop token that is often likely, and a vocabulary small enough for beams to meet.
        bias = torch.full((len(model.tokenizer),), -20.0)
        bias[range(20, 26)] = 0.0
        bias[stop] = 2.0
        model.language_model.get_output_embeddings().bias = torch.nn.Parameter(bias)
        with torch.no_grad():
            found = decode(model.start(features, mask, 6), 3, [stop], settings)
            prefixes = model.mapping(features, mask)

            def logits_of(tokens: tuple[int, ...], row: int) -> torch.Tensor:
                own = embed(torch.tensor([tokens], dtype=torch.int64))
                whole = torch.cat([prefixes[row : row + 1], own], dim=1)  # noqa: B023
                return model.language_model(inputs_embeds=whole).logits[0, -1]

            for row, hypotheses in enumerate(found):
                expected = clipcap_beam(partial(logits_of, row=row), 4, 6, stop)
                got = [h.tokens + ([stop] if h.ended else []) for h in hypotheses]
                assert got == [tokens for tokens, _ in expected]
                assert [h.score for h in hypotheses] == pytest.approx([score for _, score in expected], abs=1e-4)
                stopped += sum(h.ended for h in hypotheses)
    assert 50 < stopped < 40 * 3 * 4


def test_the_clipcap_convention_of_captions(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    whole = model.encode_caption("a man sings.", 40)
    object.__setattr__(model.config, "stop_text", ".")
    assert model.encode_caption("a man sings.", 40) == whole[:-1]
    assert model.encode_caption("a man sings.", 2) == whole[:2]
    assert model.stop_tokens == model.tokenizer(".")["input_ids"][:1]
    assert model.decode_tokens(whole[:-2], whole[-2]) == model.tokenizer.decode(whole[:-1])
    # Token 0 is read, so that what follows it is predicted behind it, but it is not predicted itself.
    captions = [[[5, 0, 7, 0]], [[0, 6]]]
    batch = pack([features_of(0), features_of(1)], captions, model.ignored_label)
    assert batch.labels.tolist() == [5, 7, 6]
    assert batch.tokens.tolist() == [[5, 0, 7], [0, 0, 0]]
    assert batch.label_column.tolist() == [-1, 1, 0]
    rows = []
    for video, (tokens,) in zip([features_of(0), features_of(1)], captions, strict=True):
        ids = torch.tensor([tokens])
        embedded = torch.cat(
            [model.mapping(*stack_features([video])), model.language_model.get_input_embeddings()(ids)], dim=1
        )
        logits = model.language_model(inputs_embeds=embedded).logits[0, 4:-1]
        rows.append(F.cross_entropy(logits, ids[0], ignore_index=0, reduction="sum"))
    torch.testing.assert_close(model(batch), sum(rows) / 3)


def test_frozen_language_model_gets_no_gradient_and_stays_in_eval_mode(tiny_lm: Path) -> None:
    model = build(tiny_lm, only_prefix=True).train()
    model(pack(*batch_of(model, [1, 2]))).backward()
    assert model.mapping.training
    assert not any(module.training for module in model.language_model.modules())
    assert all(parameter.grad is None for parameter in model.language_model.parameters())
    assert all(parameter.grad is not None for parameter in model.mapping.parameters())


def test_captions_end_in_the_end_token_unless_cut(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    end = model.tokenizer.eos_token_id
    assert model.encode_caption("a man is riding", 4)[4:] == [end]
    cut = model.encode_caption("a man is riding a horse outside", 3)
    assert len(cut) == 3
    assert end not in cut
    assert model.decode_tokens(model.encode_caption("two boys  sing", 40)) == "two boys sing"


def test_entry_length_beyond_the_positions_is_refused(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    features, mask = stack_features([features_of(0)])
    with pytest.raises(ClipcapError, match="256 positions"):
        model.start(features, mask, 300)
