"""Similarity heads: padding, order, pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipcap_video.errors import ClipcapError
from clipcap_video.retrieval.config import SIMILARITY_HEADS
from tests.retrieval.test_model import D, T, config, model


def videos(count: int = 4) -> tuple[Tensor, Tensor]:
    """Frames [V, T, D] of one to T real frames, and their mask."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(T) < torch.tensor([T, 1, 3, 2])[:count, None]
    return torch.randn(count, T, D, generator=generator) * mask[..., None], mask


class TestHeads:
    @pytest.mark.parametrize("name", list(SIMILARITY_HEADS))
    def test_padding_has_no_influence(self, name: str) -> None:
        head = model(name).head
        frames, mask = videos()
        text = torch.randn(3, D)
        noisy = torch.where(mask[..., None], frames, torch.full_like(frames, 100.0))
        torch.testing.assert_close(head(text, noisy, mask), head(text, frames, mask))
        torch.testing.assert_close(head(text, frames[1:2, :1], mask[1:2, :1]), head(text, frames[1:2], mask[1:2]))

    @pytest.mark.parametrize("name", list(SIMILARITY_HEADS))
    def test_a_pair_scores_the_same_among_any_others(self, name: str) -> None:
        head = model(name).head
        frames, mask = videos()
        text = torch.randn(6, D)
        whole = head(text, frames, mask)
        for row in range(6):
            for column in range(4):
                alone = head(text[row : row + 1], frames[column : column + 1], mask[column : column + 1])
                torch.testing.assert_close(alone[0, 0], whole[row, column], atol=1e-5, rtol=1e-5)

    def test_mean_is_the_scaled_cosine_of_the_mean_of_unit_frames(self) -> None:
        head = model("meanP").head
        frames, mask = videos()
        text = torch.randn(2, D)
        for row in range(2):
            for column, count in enumerate((T, 1, 3, 2)):
                units = [frame / frame.norm() for frame in frames[column, :count]]
                mean = torch.stack(units).mean(0)
                expected = torch.cosine_similarity(text[row], mean, dim=0) / 0.07
                torch.testing.assert_close(head(text, frames, mask)[row, column], expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("name", list(SIMILARITY_HEADS))
    def test_only_the_mean_does_not_see_the_order(self, name: str) -> None:
        head = model(name).head
        torch.nn.init.normal_(head.positions) if hasattr(head, "positions") else None
        frames, mask = videos(1)
        text = torch.randn(2, D)
        change = (head(text, frames.flip(1), mask) - head(text, frames, mask)).abs().max()
        assert (change < 1e-5) == (name == "meanP")

    def test_the_tight_head_scores_pairs_in_any_number_of_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head = model("tightTransf").head
        frames, mask = videos()
        text = torch.randn(7, D)
        whole = head(text, frames, mask)
        monkeypatch.setattr("clipcap_video.retrieval.heads.PAIRS_AT_ONCE", 9)
        torch.testing.assert_close(head(text, frames, mask), whole)

    def test_sequences_beyond_the_positions_are_refused(self) -> None:
        with pytest.raises(ClipcapError, match=r"77 positions; lower --max_frames"):
            config("tightTransf", max_frames=77)
        with pytest.raises(ClipcapError, match="unknown similarity head 'mean'"):
            config("mean")
        with pytest.raises(ClipcapError, match="3 attention heads do not divide"):
            config("seqTransf", num_heads=3)
