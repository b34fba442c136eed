from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from clipcap_video.models.dropout import OwnDropout, drawing_from, kept, own_dropouts
from clipcap_video.models.language_model import load_language_model
from tests.prefix_models import build


def test_without_a_generator_of_its_own_it_is_pytorchs() -> None:
    x = torch.randn(50, 40)
    torch.manual_seed(3)
    expected = nn.Dropout(0.3)(x)
    torch.manual_seed(3)
    assert torch.equal(OwnDropout(0.3)(x), expected)
    with drawing_from(1):
        assert OwnDropout(0.3).eval()(x) is x


def test_what_stays_is_scaled_and_as_much_as_asked() -> None:
    x = torch.ones(400, 500)
    with drawing_from(1):
        out = OwnDropout(0.25)(x)
        assert abs(float(kept(x, 0.25).float().mean()) - 0.75) < 0.01
    assert abs(float((out > 0).float().mean()) - 0.75) < 0.01
    torch.testing.assert_close(out[out > 0], torch.full_like(out[out > 0], 4 / 3))


def test_threads_side_by_side_draw_what_they_draw_alone() -> None:
    x, drop = torch.ones(300, 300), OwnDropout(0.5)
    barrier = Barrier(4)

    def draw(seed: int, together: bool = True) -> list[torch.Tensor]:
        with drawing_from(seed):
            if together:
                barrier.wait()
            return [drop(x) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(draw, range(4)))
    for seed, own in enumerate(found):
        assert all(torch.equal(one, other) for one, other in zip(own, draw(seed, together=False), strict=True))


def test_every_dropout_of_gpt2_is_owned_and_a_function_that_drops_is_not(tiny_lm: Path) -> None:
    language_model, _ = load_language_model(str(tiny_lm))
    assert own_dropouts(language_model)
    dropouts = [module for module in language_model.modules() if isinstance(module, OwnDropout)]
    assert dropouts
    assert not any(module.training for module in dropouts)
    model = build(tiny_lm, only_prefix=False)
    assert not [module for module in model.language_model.modules() if type(module) is nn.Dropout]
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    for share, owned in ((0.0, True), (0.1, False)):
        llama = LlamaForCausalLM(LlamaConfig(vocab_size=11, attention_dropout=share, **sizes))
        assert own_dropouts(llama) is owned
