"""What a checkpoint of a prefix captioner holds, against the captioner itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipcap_video.models.base import WEIGHTS
from clipcap_video.models.prefix import PrefixCaptioner
from tests.prefix_models import build


def _changed(model: PrefixCaptioner, **changes: object) -> PrefixCaptioner:
    return PrefixCaptioner(replace(model.config, **changes), model.language_model, model.tokenizer)


@pytest.mark.parametrize("changes", [{}, {"origins": 3}, {"predicted_words": 4}, {"origins": 2, "memory": 1}], ids=str)
@pytest.mark.parametrize("frozen", [True, False])
def test_the_outline_has_the_names_and_shapes_of_what_is_saved(
    tiny_lm: Path, tmp_path: Path, frozen: bool, changes: dict[str, int]
) -> None:
    model = _changed(build(tiny_lm, only_prefix=frozen), **changes)
    omitted = set(model.omitted_weights())
    held = {name: weight for name, weight in model.state_dict().items() if name not in omitted}
    model.save(tmp_path, torch.float32)
    save_file(held, tmp_path / WEIGHTS)
    with torch.device("meta"):
        outline = PrefixCaptioner.outline(model.config, tmp_path)
    expected = {name: weight.shape for name, weight in outline.state_dict().items() if name not in omitted}
    assert {name: weight.shape for name, weight in held.items()} == expected
    assert frozen != any(name.startswith("language_model.") for name in held)


def test_what_a_run_adds_is_there_and_not_learned_yet(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    options = type("Options", (), {"predicted_words": 8, "memory": 0})
    model.extend(options)
    assert (model.config.predicted_words, model.config.memory) == (8, 0)
    assert model.config.prefix_length == 5 + 8 + 2
    assert not model.prompt_kind.any()
    # A second run that asks for nothing takes nothing away.
    model.prompt_kind.data += 1
    model.extend(type("Options", (), {"predicted_words": 0, "memory": 0}))
    assert model.config.predicted_words == 8
    assert bool(model.prompt_kind.all())
