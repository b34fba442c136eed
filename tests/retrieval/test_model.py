"""Similarity heads against their formulas and against CLIP4Clip's recorded outputs; the loss; checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import CheckpointInfo, load_checkpoint
from clipcap_video.retrieval.config import SIMILARITY_HEADS
from clipcap_video.retrieval.model import (
    RetrievalConfig,
    RetrievalModel,
    load_retrieval,
    save_retrieval,
)
from clipcap_video.retrieval.video_clip import VideoClip
from tests.tiny_clip import tiny_clip

D, T = 32, 5


class ByLength:
    """A text encoder that the test needs no weights for."""

    name, dim, weights_digest = "by-length", 6, "sha256:0"

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.stack([torch.arange(6.0) + len(text) for text in texts])


def config(sim_header: str, **changes: object) -> RetrievalConfig:
    values = {
        "sim_header": sim_header, "dim": D, "feature_dim": 12, "text_dim": 6, "project": True,
        "text_encoder": "by-length", "text_digest": "sha256:0", "num_layers": 2, "num_heads": 4, "max_frames": T,
    }  # fmt: skip
    return RetrievalConfig(**(values | changes))  # type: ignore[arg-type]


def model(sim_header: str, seed: int = 0, **changes: object) -> RetrievalModel:
    torch.manual_seed(seed)
    return RetrievalModel(config(sim_header, **changes), text_encoder=ByLength()).eval()


class TestWhatASearchNeeds:
    @pytest.mark.parametrize("name", ["meanP", "seqLSTM", "seqTransf"])
    def test_similarity_is_the_scaled_cosine_of_two_vectors(self, name: str) -> None:
        retrieval = model(name)
        mask = torch.tensor([[True] * 4, [True, True, False, False]])
        text = retrieval.embed_text(["a dog", "two men on a boat", "x"])
        frames = retrieval.embed_frames(torch.randn(2, 4, 12), mask)
        pooled = retrieval.pool(frames, mask)
        torch.testing.assert_close(text.norm(dim=-1), torch.ones(3))
        torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(2))
        torch.testing.assert_close(frames.norm(dim=-1), mask.float())
        torch.testing.assert_close(retrieval.similarity(text, frames, mask), (text @ pooled.T) / 0.07)

    def test_features_of_another_width_are_refused(self) -> None:
        with pytest.raises(ClipcapError, match="8 wide, but the model was trained on 12"):
            model("meanP").embed_frames(torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool))

    def test_no_texts_have_no_vectors(self) -> None:
        assert model("meanP").embed_text([]).shape == (0, D)


class TestCheckpoints:
    @pytest.mark.parametrize("name", list(SIMILARITY_HEADS))
    def test_saved_and_loaded_is_the_same(self, tmp_path: Path, name: str) -> None:
        first = model(name)
        save_retrieval(tmp_path / "m", first, CheckpointInfo(progress={"epoch": 3}))
        second, info = load_retrieval(tmp_path / "m")
        assert (second.config, info.progress) == (first.config, {"epoch": 3})
        states = first.state_dict(), second.state_dict()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    def test_a_clip_inside_shares_its_scale_with_the_head(self, tmp_path: Path) -> None:
        clip = VideoClip(dict(tiny_clip().state_dict()), tmp_path)
        shape = replace(config("meanP"), text_encoder=None, project=False, dim=48, feature_dim=48, text_dim=48)
        first = RetrievalModel(shape, clip)
        clip.network.logit_scale.data.fill_(1.5)
        save_retrieval(tmp_path / "m", first, CheckpointInfo())
        second = RetrievalModel.from_pretrained(tmp_path / "m")
        assert second.head.logit_scale is not None
        assert second.head.logit_scale.item() == 1.5
        torch.testing.assert_close(second.embed_text(["a dog"]), first.embed_text(["a dog"]))

    def test_models_of_another_kind_are_refused(self, tmp_path: Path) -> None:
        save_retrieval(tmp_path / "m", model("meanP"), CheckpointInfo())
        with pytest.raises(ClipcapError, match=r"is a retrieval model, for .*; expected a captioner"):
            load_checkpoint(tmp_path / "m")
        loaded, _ = load_retrieval(tmp_path / "m")
        with pytest.raises(ClipcapError, match="unknown text encoder 'by-length'"):
            loaded.embed_text(["a"])
