"""Outputs and checkpoints recorded from CLIP4Clip's released code."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.cli import main
from clipcap_video.errors import ClipcapError
from clipcap_video.retrieval.clip4clip import clip4clip_state, load_clip4clip
from clipcap_video.retrieval.model import (
    RetrievalModel,
)
from tests.golden import unpack

RECORDED = ("meanP-2d", "meanP-3d", "seqLSTM-2d", "seqTransf-2d", "tightTransf-2d")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("clip4clip"), "clip4clip") / "clip4clip"


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
        with pytest.raises(ClipcapError, match="cannot read the weights"):
            load_clip4clip(bad)

    @pytest.mark.parametrize("name", RECORDED)
    def test_there_and_back_is_the_same_file(self, recorded: Path, name: str) -> None:
        theirs = torch.load(recorded / f"{name}.bin", weights_only=True)
        model, report = load_clip4clip(recorded / f"{name}.bin")
        state = clip4clip_state(model, recorded)
        assert state.keys() == report.mapped.keys() == theirs.keys() - report.dropped.keys()
        assert all(torch.equal(state[key], theirs[key].float()) for key in state)
