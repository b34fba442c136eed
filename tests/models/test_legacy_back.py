"""Checkpoints of ours in the ClipCap program's own form."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipcap_video.cli import main
from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import CheckpointInfo, save_checkpoint
from clipcap_video.models.legacy import load_legacy
from clipcap_video.models.legacy_back import legacy_state
from tests.golden import choices, recorded


def test_convert_back_by_command_and_what_has_no_such_form(
    tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*words: object) -> object:
        monkeypatch.setattr(sys, "argv", ["clipcap-video", "convert", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    case = recorded(golden, "msrvtt-clipcap/cross")
    model, _ = load_legacy(case.checkpoint, str(case.lm), choices(case))
    save_checkpoint(tmp_path / "ours", model, CheckpointInfo())
    assert not convert(tmp_path / "ours", "--to", "clipcap", "--out", tmp_path / "theirs")
    again, _ = load_legacy(tmp_path / "theirs" / "clipcap-009.pt", str(case.lm), choices(case))
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert convert(tmp_path / "ours", "--to", "clip4clip", "--out", tmp_path / "c") == 1
    fresh = replace(model.config, mapping=replace(model.config.mapping, input_norm=True))
    model.config = fresh
    with pytest.raises(ClipcapError, match=r"has input_norm, which ClipCap lacks; .* Train with --recipe reference"):
        legacy_state(model, tmp_path)
