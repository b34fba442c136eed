"""Lanes that share one cache against whole sequences, and beams against the ClipCap program."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.features.base import stack_features
from tests.decoding_models import clipcap_beam
from tests.prefix_models import build
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
