"""A frozen language model's loss in pieces against the same loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipcap_video.models import lanes, prefix_network
from clipcap_video.models.packing import PackedCaptions, pack
from clipcap_video.models.prefix import PrefixCaptioner
from tests.prefix_models import batch_of, build

CAPTIONS = [5, 1, 3, 1, 2, 4, 1]  # of seven videos


@pytest.fixture
def model(tiny_lm: Path) -> PrefixCaptioner:
    return build(tiny_lm, only_prefix=True).eval()


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gradients(model: PrefixCaptioner, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.mapping.parameters())))


def whole(model: PrefixCaptioner, batch: PackedCaptions, smoothing: float) -> Tensor:
    return model._summed_loss(model.prefix(batch.features, batch.mask), batch, smoothing) / len(batch.labels)


@pytest.mark.parametrize("tokens", [1, 30, 10_000], ids=["a video each", "a few", "all"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_whole_batch(
    model: PrefixCaptioner, tokens: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pack(*batch_of(model, CAPTIONS))
    batch.label_weight = torch.rand(len(batch.labels), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(lanes, "TOKENS", tokens)
    loss, expected = model(batch, smoothing), whole(model, batch, smoothing)
    torch.testing.assert_close(loss, expected)
    for mine, other in zip(gradients(model, loss), gradients(model, expected), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(batch, smoothing), expected)


@pytest.mark.parametrize("cores", [2, 3, 9])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_trained_language_model_gets_the_gradients_of_the_whole_batch(
    tiny_lm: Path, cores: int, lora_rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny_lm, only_prefix=False, lora_rank=lora_rank).eval()
    batch = pack(*batch_of(model, CAPTIONS))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    expected = torch.autograd.grad(whole(model, batch, 0.1), trained, allow_unused=True)
    monkeypatch.setattr(lanes, "TOKENS", 30)
    with threads(cores):
        found = torch.autograd.grad(model(batch, 0.1), trained, allow_unused=True)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


def test_dropout_is_the_same_whoever_comes_first(tiny_lm: Path) -> None:
    model = build(tiny_lm, only_prefix=False).train()
    batch = pack(*batch_of(model, CAPTIONS))
    found = []
    for seed in (1, 1, 1, 2):
        torch.manual_seed(seed)
        with threads(3):
            loss = model(batch, 0.1)
            found.append([loss, *torch.autograd.grad(loss, list(model.language_model.parameters()))])
    for other in found[1:3]:
        assert all(torch.equal(mine, one) for mine, one in zip(found[0], other, strict=True))
    assert found[0][0] != found[3][0]


def test_a_model_whose_gradients_are_too_large_is_trained_by_all_cores_at_once(
    tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny_lm, only_prefix=False)
    batch = pack(*batch_of(model, CAPTIONS))
    monkeypatch.setattr(lanes, "MOST_GRADIENTS", 100)
    monkeypatch.setattr(prefix_network, "loss_in_lanes", None)
    with threads(2):
        model(batch).backward()


def test_parts_are_alike_and_hold_every_video_once(model: PrefixCaptioner) -> None:
    batch = pack(*batch_of(model, CAPTIONS))
    parts = [part.tolist() for part in lanes._alike(batch, 4, 3)]
    assert sorted(row for part in parts for row in part) == list(range(len(CAPTIONS)))
    sizes = [sum((batch.lengths() + 4)[row] for row in part) for part in parts]
    assert max(sizes) - min(sizes) <= max(batch.lengths()) + 4
    assert len(lanes._alike(batch, 4, 99)) == len(CAPTIONS)


def test_any_number_of_cores_gives_the_same_to_the_bit(model: PrefixCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(*batch_of(model, CAPTIONS))
    monkeypatch.setattr(lanes, "TOKENS", 20)
    prefix = model.prefix(batch.features, batch.mask).detach().requires_grad_()
    found = []
    for cores in (1, 2, 5):
        with threads(cores):
            loss = model.caption_loss(prefix, batch)
            found.append([loss, *torch.autograd.grad(loss, prefix)])
    for other in found[1:]:
        assert all(torch.equal(mine, one) for mine, one in zip(found[0], other, strict=True))


def test_some_videos_of_a_batch_are_what_packing_them_alone_gives(model: PrefixCaptioner) -> None:
    videos, captions = batch_of(model, CAPTIONS)
    rows = [3, 0, 4]
    part, alone = (
        pack(videos, captions).of(torch.tensor(rows)),
        pack([videos[row] for row in rows], [captions[row] for row in rows]),
    )
    for name in ("tokens", "caption", "position"):
        assert torch.equal(getattr(part, name), getattr(alone, name))
    labels: Callable[[PackedCaptions], list[tuple[int, int, int]]] = lambda one: sorted(  # noqa: E731
        zip(one.label_row.tolist(), one.label_column.tolist(), one.labels.tolist(), strict=True)
    )
    assert labels(part) == labels(alone)


def test_every_video_is_in_one_piece_and_pieces_are_as_large_as_allowed(model: PrefixCaptioner) -> None:
    batch = pack(*batch_of(model, CAPTIONS))
    pieces = [piece.tolist() for piece in lanes._pieces(batch, 4)]
    assert sorted(row for piece in pieces for row in piece) == list(range(len(CAPTIONS)))
    lengths = (batch.lengths() + 4).tolist()
    assert all(len(piece) == 1 or max(lengths[row] for row in piece) * len(piece) <= lanes.TOKENS for piece in pieces)
