"""What a checkpoint of a prefix captioner holds, against the captioner itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.features.base import stack_features
from clipcap_video.models.base import WEIGHTS
from clipcap_video.models.packing import pack
from clipcap_video.models.prefix import PrefixCaptioner
from tests.prefix_models import batch_of, build


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


@pytest.mark.parametrize("llama", [False, True], ids=["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["only_prefix", "adapters", "trained whole"])
def test_a_model_that_was_readied_for_bf16_learns_what_it_learned_and_says_what_it_said(
    tiny_lm: Path, kind: str, llama: bool
) -> None:
    if kind == "adapters":
        pytest.importorskip("peft", reason="peft (extra lora) is not installed")

    def made() -> PrefixCaptioner:
        options = {"only_prefix": kind == "only_prefix", "lora_rank": 2 * (kind == "adapters"), "llama": llama}
        model = build(tiny_lm, **options)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(2)
        for name, weight in model.named_parameters():
            if ".lora_B" in name:
                weight.data.normal_(0, 0.3, generator=generator)
        return model

    plain, readied = made(), made()
    batch = pack(*batch_of(plain, [0, 5, 3]))
    readied.keep_in("bf16", torch.device("cpu"), frozen_only=True)
    found = []
    for model, enabled in ((plain, False), (plain, True), (readied, True)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = model(batch)
        loss.backward()
        trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        found.append((loss.detach(), torch.cat([one.flatten() for one in trained.values() if one is not None])))
        model.zero_grad()
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0], atol=2e-2, rtol=0)
        assert torch.nn.functional.cosine_similarity(gradient, found[0][1], dim=0) > 0.999

    writing = made()
    writing.keep_in("bf16", torch.device("cpu"))
    features, mask = stack_features([row.numpy() for row in batch.features])
    settings = DecodingSettings(use_beam_search=True, beam_size=3, entry_length=6)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        said, before = (
            decode(model.start(features, mask, 7), 3, model.stop_tokens, settings) for model in (writing, plain)
        )
    for one, other in zip(said, before, strict=True):
        assert abs(one[0].mean_logprob - other[0].mean_logprob) < 0.02
