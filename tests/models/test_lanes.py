"""A frozen language model's loss in pieces against the same loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipcap_video.models import lanes
from clipcap_video.models.packing import PackedCaptions, pack
from clipcap_video.models.prefix import PrefixCaptioner
from tests.prefix_models import batch_of, build

CAPTIONS = [5, 1, 3, 1, 2, 4, 1]  # of seven videos


@pytest.fixture
def model(tiny_lm: Path) -> PrefixCaptioner:
    return build(tiny_lm, only_prefix=True).eval()


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


def test_any_number_of_cores_gives_the_same_to_the_bit(model: PrefixCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(*batch_of(model, CAPTIONS))
    monkeypatch.setattr(lanes, "TOKENS", 20)
    prefix = model.prefix(batch.features, batch.mask).detach().requires_grad_()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            loss = model.caption_loss(prefix, batch)
            found.append([loss, *torch.autograd.grad(loss, prefix)])
    finally:
        torch.set_num_threads(before)
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
