"""`clipcap-video pack`: a checkpoint for others says the same, and nothing of the data that it was trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from clipcap_video.models.checkpoint import CONSENSUS
from tests.cli.conftest import Project, with_ranker
from tests.commands import predictions, refused, run


def test_weights_are_those_of_the_run_rounded_and_no_path_of_the_data_is_left(project: Project, tmp_path: Path) -> None:
    done = run("clipcap-video", "pack", project.out, "--out", tmp_path / "packed")
    assert done.returncode == 0, done.stderr
    size = sum(file.stat().st_size for file in (tmp_path / "packed").rglob("*") if file.is_file())
    assert done.stdout == f"packed into {tmp_path / 'packed'}: {size / 1e6:.1f} MB\n"
    said = (tmp_path / "packed" / "config.json").read_text()
    assert not [path for path in (project.features, project.annotations, project.out) if str(path) in said]
    before = load_file(project.out / "best" / "model.safetensors")
    for name, weights in load_file(tmp_path / "packed" / "model.safetensors").items():
        if name in before:
            assert torch.equal(weights.float(), before[name].half().float())
    out = tmp_path / "p.json"
    infer = ["clipcap-video", "infer", "--model_dir", tmp_path / "packed", "--features", project.features]
    assert run(*infer, "--device", "cpu", "--out", out).returncode == 0
    assert len(predictions(out)) == 6


def test_a_damaged_consensus_network_is_not_passed_on(project: Project, tmp_path: Path) -> None:
    model = with_ranker(project, tmp_path, 0.5)
    assert run("clipcap-video", "pack", model, "--out", tmp_path / "whole").returncode == 0
    assert (tmp_path / "whole" / CONSENSUS).read_bytes() == (model / CONSENSUS).read_bytes()
    (model / CONSENSUS).write_bytes((model / CONSENSUS).read_bytes()[:-100])
    assert "train-consensus" in refused("clipcap-video", "pack", model, "--out", tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
