from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clipcap_video.features.base import stack_features
from clipcap_video.models import loss as loss_module
from clipcap_video.models.loss import summed_cross_entropy
from clipcap_video.models.packing import pack
from clipcap_video.products import FrozenMatrix, cpu_has_kernels_for
from tests.prefix_models import batch_of, build


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("at_once", [2**20, 3 * 11])
def test_it_is_pytorchs_cross_entropy(smoothing, with_bias, weighted, at_once, monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
    monkeypatch.setattr(loss_module, "WORDS_AT_ONCE", 4)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((8, 5), (11, 5), (11,))
    )
    rows = torch.tensor([0, 0, 0, 2, 7, 7, 5, 1])  # some rows have no label, some several, one twice the same
    labels = torch.tensor([3, 3, 10, 0, 4, 5, 9, 1])
    weights = torch.randn(8, generator=generator)  # of either sign, as in self-critical training
    used = bias if with_bias else None
    ours = summed_cross_entropy(hidden, weight, used, rows, labels, weights if weighted else None, smoothing) * 0.3
    found = torch.autograd.grad(ours, [hidden, weight, *([bias] if with_bias else [])])
    logits = F.linear(hidden, weight, used)[rows]
    each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    plain = (each * weights if weighted else each).sum() * 0.3
    expected = torch.autograd.grad(plain, [hidden, weight, *([bias] if with_bias else [])])
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=1e-6)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not cpu_has_kernels_for(torch.bfloat16), reason="oneDNN has no bf16 products here")
def test_a_head_that_is_ready_for_products_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((70, 16), (90, 16), (90,)))
    labels = torch.randint(0, 90, (70,), generator=generator)
    found = []
    for frozen in (None, FrozenMatrix(weight, bias, backwards=True)):
        own = hidden.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = summed_cross_entropy(own, weight, bias, torch.arange(70), labels, None, 0.1, frozen)
        found.append((loss, torch.autograd.grad(loss, own)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_frozen_head_gets_no_gradient():
    hidden = torch.randn(3, 4, requires_grad=True)
    weight = torch.randn(6, 4)
    summed_cross_entropy(hidden, weight, None, torch.arange(3), torch.arange(3), None, 0.0).backward()
    assert weight.grad is None
    expected = F.linear(hidden.detach(), weight).softmax(-1)
    expected[range(3), range(3)] -= 1
    torch.testing.assert_close(hidden.grad, expected @ weight)


@pytest.mark.parametrize("at_once", [2**20, 3 * 11])
def test_what_is_never_written_gets_no_smoothing(at_once, monkeypatch):
    """Tokens 2 and 7 have a bias of -inf: the loss and its gradients are those of the other nine alone."""
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((8, 5), (11, 5), (11,))
    )
    possible = [0, 1, 3, 4, 5, 6, 8, 9, 10]
    barrier = torch.full((11,), float("-inf"), dtype=torch.float64).index_fill(0, torch.tensor(possible), 0.0)
    rows, labels = torch.tensor([0, 0, 2, 7, 5]), torch.tensor([3, 10, 0, 4, 5])
    weights = torch.randn(5, generator=generator)
    ours = summed_cross_entropy(hidden, weight, bias + barrier, rows, labels, weights, 0.1)
    found = torch.autograd.grad(ours, [hidden, weight, bias])
    logits = F.linear(hidden, weight[possible], bias[possible])[rows]
    numbers = torch.tensor([possible.index(label) for label in labels.tolist()])
    plain = (F.cross_entropy(logits, numbers, reduction="none", label_smoothing=0.1) * weights).sum()
    expected = torch.autograd.grad(plain, [hidden, weight, bias])
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=1e-6)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_logits_in_pieces_give_the_same_loss_and_gradients(tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(tiny_lm, only_prefix=False)
    batch = pack(*batch_of(model, [0, 5, 3]))
    results = []
    for at_once in (2**26, 7 * model.language_model.config.vocab_size):
        monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
        model.zero_grad()
        loss = model(batch, label_smoothing=0.1)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_label_smoothing_equals_pytorchs(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    features, captions = batch_of(model, [2])
    one = [captions[0][:1]]
    prefix = model.mapping(*stack_features(features))
    ids = torch.tensor(one[0])
    embedded = torch.cat([prefix, model.language_model.get_input_embeddings()(ids)], dim=1)
    logits = model.language_model(inputs_embeds=embedded).logits[0, 4:-1]
    expected = F.cross_entropy(logits, ids[0], label_smoothing=0.1)
    torch.testing.assert_close(model(pack(features, one), label_smoothing=0.1), expected)
