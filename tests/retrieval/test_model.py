"""Similarity heads against their formulas and against CLIP4Clip's recorded outputs; the loss; checkpoints."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipcap_video.cli import main
from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import CheckpointInfo, load_checkpoint
from clipcap_video.models.contrastive import contrastive_loss
from clipcap_video.retrieval.clip4clip import load_clip4clip
from clipcap_video.retrieval.heads import SIMILARITY_HEADS
from clipcap_video.retrieval.model import (
    RetrievalBatch,
    RetrievalConfig,
    RetrievalModel,
    load_retrieval,
    save_retrieval,
)
from clipcap_video.retrieval.video_clip import TEMPORAL, VideoClip
from tests.golden import unpack
from tests.tiny_clip import save_tiny_clip, tiny_clip

RECORDED = ("meanP-2d", "meanP-3d", "seqLSTM-2d", "seqTransf-2d", "tightTransf-2d")
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


def videos(count: int = 4) -> tuple[Tensor, Tensor]:
    """Frames [V, T, D] of one to T real frames, and their mask."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(T) < torch.tensor([T, 1, 3, 2])[:count, None]
    return torch.randn(count, T, D, generator=generator) * mask[..., None], mask


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("clip4clip"), "clip4clip") / "clip4clip"


class TestHeads:
    @pytest.mark.parametrize("name", SIMILARITY_HEADS)
    def test_padding_has_no_influence(self, name: str) -> None:
        head = model(name).head
        frames, mask = videos()
        text = torch.randn(3, D)
        noisy = torch.where(mask[..., None], frames, torch.full_like(frames, 100.0))
        torch.testing.assert_close(head(text, noisy, mask), head(text, frames, mask))
        torch.testing.assert_close(head(text, frames[1:2, :1], mask[1:2, :1]), head(text, frames[1:2], mask[1:2]))

    @pytest.mark.parametrize("name", SIMILARITY_HEADS)
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

    @pytest.mark.parametrize("name", SIMILARITY_HEADS)
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


class TestLoss:
    def test_is_the_mean_of_both_cross_entropies(self) -> None:
        similarity = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        rows = [math.log(1 + math.exp(1 - 2)), math.log(1 + math.exp(0 - 3))]
        columns = [math.log(1 + math.exp(0 - 2)), math.log(1 + math.exp(1 - 3))]
        expected = (sum(rows) / 2 + sum(columns) / 2) / 2
        assert contrastive_loss(similarity).item() == pytest.approx(expected)

    def test_another_text_of_the_same_video_is_no_negative(self) -> None:
        """Texts 0 and 2 belong to video 7: leaving either out of the other's sum."""
        similarity = torch.randn(3, 3)
        loss = contrastive_loss(similarity, torch.tensor([7, 8, 7]))
        allowed = [[0, 1], [0, 1, 2], [1, 2]]
        terms = [
            math.log(sum(math.exp(float(matrix[own, other] - matrix[own, own])) for other in allowed[own]))
            for matrix in (similarity, similarity.T)
            for own in range(3)
        ]
        assert loss.item() == pytest.approx(sum(terms) / 6, rel=1e-5)

    def test_the_scale_stays_at_100_or_below(self) -> None:
        retrieval = model("meanP")
        assert retrieval.head.logit_scale is not None
        retrieval.head.logit_scale.data.fill_(9.0)
        retrieval.clamp_scale()
        assert retrieval.head.logit_scale.exp().item() == pytest.approx(100)


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


class TestRecordedOutputs:
    @pytest.mark.parametrize("name", RECORDED)
    def test_text_frames_and_similarity(self, recorded: Path, name: str) -> None:
        inputs, expected = np.load(recorded / "inputs.npz"), np.load(recorded / f"{name}.npz")
        retrieval, _ = load_clip4clip(recorded / f"{name}.bin", max_frames=6)
        assert retrieval.clip is not None
        mask = torch.from_numpy(inputs["video_mask"]).bool()
        pixels = torch.from_numpy(inputs["video"]).float()
        with torch.no_grad():
            text = retrieval.clip.encode_tokens(torch.from_numpy(inputs["input_ids"]))
            # That program encodes padded frames as well, and masks them afterwards.
            every = retrieval.clip.encode_pixels(pixels, torch.ones_like(mask))
            frames = retrieval.clip.encode_pixels(pixels, mask)
            similarity = retrieval.head(text, frames, mask)
        for ours, theirs in ((text, "text"), (every, "frames"), (similarity, "similarity")):
            torch.testing.assert_close(ours, torch.from_numpy(expected[theirs]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(frames, torch.from_numpy(expected["frames"]) * mask[..., None], atol=1e-4, rtol=0)
        embedded = retrieval.embed_frames(frames, mask)
        again = retrieval.similarity(retrieval.embed_text_inputs(torch.from_numpy(inputs["input_ids"])), embedded, mask)
        torch.testing.assert_close(again, torch.from_numpy(expected["similarity"]), atol=1e-4, rtol=1e-4)

    def test_converted_ones_are_the_same(
        self, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in RECORDED:
            old, out = tmp_path / f"pytorch_model.bin.{RECORDED.index(name)}", tmp_path / name
            old.symlink_to(recorded / f"{name}.bin")
            monkeypatch.setattr(sys, "argv", ["clipcap-video", "convert", str(old), "--out", str(out)])
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
            before, after = load_clip4clip(old)[0].state_dict(), RetrievalModel.from_pretrained(out).state_dict()
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before)
            report = capsys.readouterr().out.splitlines()
            keys = torch.load(old, weights_only=True)
            for key in keys:
                assert sum(line.split()[1].rstrip(":") == key for line in report if line[:8].strip()) == 1, key
            head, patch = name.split("-")
            assert any(f"{patch} patches" in line for line in report)
            assert any(line.startswith(f"inferred similarity head: {head}") for line in report)
        assert "dropped  frame_position_embeddings" not in "\n".join(report)

    def test_a_key_of_no_layout_is_named(self, recorded: Path, tmp_path: Path) -> None:
        state = torch.load(recorded / "meanP-2d.bin", weights_only=True)
        bad = tmp_path / "pytorch_model.bin.0"
        torch.save(state | {"decoder.weight": torch.zeros(1)}, bad)
        with pytest.raises(ClipcapError, match=r"the key decoder\.weight fits no layout of CLIP4Clip"):
            load_clip4clip(bad)
        torch.save({key: value for key, value in state.items() if key != "clip.text_projection"}, bad)
        with pytest.raises(ClipcapError, match="does not hold a CLIP model"):
            load_clip4clip(bad)
        bad.write_bytes(b"nonsense")
        with pytest.raises(ClipcapError, match="holds no readable weights"):
            load_clip4clip(bad)


class TestVideoClip:
    def test_a_fresh_3d_projection_sees_each_frame_as_the_2d_one_does(self, tmp_path: Path) -> None:
        weights = dict(tiny_clip().state_dict())
        flat, deep = (VideoClip(weights, tmp_path, patch).eval() for patch in ("2d", "3d"))
        images = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
        mask = torch.tensor([[True, True, True], [True, False, False]])
        with torch.no_grad():
            torch.testing.assert_close(deep.encode_frames(images, mask), flat.encode_frames(images, mask))
        kernel = deep.network.visual.conv2.weight
        assert torch.equal(kernel[:, :, 1], weights["visual.conv1.weight"])
        assert not kernel[:, :, [0, 2]].any()
        assert VideoClip(weights | {TEMPORAL: kernel}, tmp_path).linear_patch == "3d"

    def test_freezing(self, tmp_path: Path) -> None:
        def trained(layers: int, patch: str = "2d") -> set[str]:
            clip = VideoClip(dict(tiny_clip().state_dict()), tmp_path, patch)
            clip.freeze(layers)
            return {name for name, weight in clip.network.named_parameters() if weight.requires_grad}

        everything = set(dict(tiny_clip().named_parameters()))
        assert trained(-1) == everything
        bottom = {"positional_embedding", "token_embedding.weight", "visual.conv1.weight", "visual.class_embedding"}
        bottom |= {"visual.positional_embedding", "visual.ln_pre.weight", "visual.ln_pre.bias"}
        assert everything - trained(0) == bottom
        assert everything - trained(1) == bottom | {name for name in everything if "resblocks.0." in name}
        assert "visual.conv2.weight" in trained(12, "3d")

    def test_a_resnet_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ClipcapError, match="retrieval trains those with a vision transformer"):
            VideoClip(dict(tiny_clip("resnet").state_dict()), tmp_path)


class TestCheckpoints:
    @pytest.mark.parametrize("name", SIMILARITY_HEADS)
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


WORKER = """
import gc, sys
import torch, torch.distributed as dist
sys.path.insert(0, {root!r})
from tests.retrieval.test_model import batch, model
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
retrieval = torch.nn.parallel.DistributedDataParallel(model({name!r}, max_frames=5))
loss = retrieval(batch(slice(0, 5) if rank == 0 else slice(5, 8)))
loss.backward()
if rank == 0:
    torch.save([loss.detach(), [p.grad for p in retrieval.module.parameters()]], {out!r})
# Torch aborts now and then at exit where a model outlives its process group.
del retrieval, loss
gc.collect()
dist.destroy_process_group()
"""


def batch(rows: slice) -> RetrievalBatch:
    """Eight pairs of differing lengths, two of one video; of those, `rows`, no longer than they need be."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(5) < torch.tensor([5, 2, 3, 1, 4, 2, 3, 1])[:, None]
    frames = torch.randn(8, 5, 12, generator=generator) * mask[..., None]
    text = torch.randn(8, 6, generator=generator)
    longest = int(mask[rows].sum(1).max())
    return RetrievalBatch(
        frames[rows, :longest], mask[rows, :longest], text[rows], torch.tensor([0, 1, 2, 3, 4, 5, 1, 6])[rows]
    )


@pytest.mark.parametrize("name", ["seqTransf", "tightTransf"])
def test_two_processes_have_the_gradient_of_one(tmp_path: Path, name: str) -> None:
    """Batches of five and three pairs in two processes, against one of eight."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(Path(__file__).parents[2]), name=name, out=str(tmp_path / "out.pt")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    loss, gradients = torch.load(tmp_path / "out.pt", weights_only=True)
    alone = model(name, max_frames=5)
    expected = alone(batch(slice(0, 8)))
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for (key, parameter), gradient in zip(alone.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None, key
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4, msg=key)
        assert name == "tightTransf" or gradient.abs().max() > 0 or "bias" in key, key


def test_the_tiny_clip_of_the_tests_is_one(tmp_path: Path) -> None:
    assert VideoClip(dict(torch.load(save_tiny_clip(tmp_path / "c.pt"))), tmp_path).dim == 48
