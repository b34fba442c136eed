"""Prefix captioners against a plain use of their language model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import stack_features
from clipcap_video.models.packing import pack
from tests.prefix_models import batch_of, build
from tests.tiny import features_of


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
