"""The model that a run begins with: fresh, as CLIP's text layers, or another run's."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from clipcap_video.retrieval.building import build_retrieval
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.model import load_retrieval
from clipcap_video.retrieval.train import train_retrieval
from tests.conftest import TinyProject
from tests.retrieval.conftest import config, end_to_end


@pytest.mark.parametrize("head", ["seqTransf", "tightTransf"])
def test_heads_begin_as_clips_text_layers(clips: Path, tmp_path: Path, head: str) -> None:
    """The tiny CLIP's text is as wide as its joint space only where it is made so."""
    from clip.model import CLIP

    torch.manual_seed(0)
    square = CLIP(64, 64, 1, 64, 16, 77, 49408, 64, 1, 3)
    torch.save(square.state_dict(), tmp_path / "clip.pt")
    options = {"sim_header": head, "pretrained_clip_name": str(tmp_path / "clip.pt"), "linear_patch": "3d"}
    model = build_retrieval(end_to_end(clips, tmp_path / "out", **options), None, [], torch.device("cpu"))
    assert torch.equal(model.head.positions, square.positional_embedding)
    own = square.transformer.state_dict()
    begun = model.head.transformer.state_dict()
    assert len(begun) == 2 * 12
    assert all(torch.equal(begun[name], own[name]) for name in begun)
    # The same beside stored features of that CLIP, where 90 frames need more positions than it has.
    stored = RetrievalTrainConfig(
        data=tmp_path, caption=[clips / "captions.csv"], text_encoder=str(tmp_path / "clip.pt"), dim=0,
        sim_header=head, cross_num_hidden_layers=2, max_frames=90, precision="fp32", device="cpu",
    )  # fmt: skip
    store = SimpleNamespace(shape=lambda name: SimpleNamespace(dim=64))
    training = [VideoRecord("clip0", "train", ["a dog"])]
    beside = build_retrieval(stored, store, training, torch.device("cpu"))
    assert torch.equal(beside.head.positions[:77], square.positional_embedding)
    assert len(beside.head.positions) == 91
    begun = beside.head.transformer.state_dict()
    assert len(begun) == 2 * 12
    assert all(torch.equal(begun[name], own[name]) for name in begun)


def test_init_from_may_change_the_patches(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "eval_every": 0}
    train_retrieval(end_to_end(clips, tmp_path / "2d", sim_header="seqTransf", epochs=1, eval_every=0))
    begun = {"init_from": tmp_path / "2d", "pretrained_clip_name": None, "cross_num_hidden_layers": None}
    train_retrieval(
        end_to_end(clips, tmp_path / "3d", **(still | begun | {"linear_patch": "3d", "sim_header": "seqTransf"}))
    )
    said = capsys.readouterr().err
    assert "--linear_patch 3d: visual.conv2.weight begins as visual.conv1.weight in the middle frame" in said
    flat, deep = (load_retrieval(tmp_path / name)[0] for name in ("2d", "3d"))
    assert (deep.config.linear_patch, deep.config.sim_header) == ("3d", "seqTransf")
    for name, weight in flat.state_dict().items():
        torch.testing.assert_close(deep.state_dict()[name], weight, atol=1e-6, rtol=0)
    frames = torch.randint(0, 256, (1, 3, 3, 64, 64), dtype=torch.uint8)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert flat.clip is not None
    assert deep.clip is not None
    with torch.no_grad():  # before the convolution has learnt anything, it sees what the flat one does
        same = flat.clip.encode_frames(frames, mask)
        torch.testing.assert_close(deep.clip.encode_frames(frames, mask), same, rtol=1e-4, atol=1e-4)

    back = begun | {"init_from": tmp_path / "3d"}
    train_retrieval(end_to_end(clips, tmp_path / "back", **(still | back | {"sim_header": "meanP"})))
    said = capsys.readouterr().err
    assert "--linear_patch 2d: visual.conv2.weight of --init_from has no place" in said
    assert "tensors of --init_from have no place (head.positions" in said
    assert load_retrieval(tmp_path / "back")[0].config.linear_patch == "2d"


def test_init_from_begins_where_another_run_ended(tiny_project: TinyProject, tmp_path: Path) -> None:
    train_retrieval(config(tiny_project, tmp_path / "a", sim_header="seqLSTM"))
    small = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "sim_header": "seqLSTM", "init_from": tmp_path / "a"}
    train_retrieval(config(tiny_project, tmp_path / "b", **small))
    first, second = (load_retrieval(tmp_path / name)[0].state_dict() for name in ("a", "b"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=0)


def test_init_from_may_change_the_head(
    tiny_project: TinyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_retrieval(config(tiny_project, tmp_path / "a", epochs=1))
    small = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "init_from": tmp_path / "a"}
    train_retrieval(config(tiny_project, tmp_path / "b", sim_header="seqTransf", **small))
    assert re.search(r"--sim_header seqTransf: \d+ tensors begin anew \(head\.positions", capsys.readouterr().err)
    first, second = (load_retrieval(tmp_path / name)[0] for name in ("a", "b"))
    assert (second.config.sim_header, second.config.num_layers) == ("seqTransf", 1)
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], weight, atol=1e-6, rtol=0)
    train_retrieval(config(tiny_project, tmp_path / "c", **(small | {"init_from": tmp_path / "b"})))
    assert "tensors of --init_from have no place (head.positions" in capsys.readouterr().err
    deeper = {"init_from": tmp_path / "b", "sim_header": "seqTransf", "cross_num_hidden_layers": 3}
    with pytest.raises(ClipcapError, match="has 1 layers in its head; leave --cross_num_hidden_layers out"):
        train_retrieval(config(tiny_project, tmp_path / "d", **deeper))
