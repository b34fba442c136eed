"""A consensus network in a captioner's checkpoint: made again it is the same, and runs keep it."""

from __future__ import annotations

import shutil
from pathlib import Path

from clipcap_video.models.checkpoint import CONSENSUS, read_config
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import prepare
from tests.cli.test_cli import run


def test_training_it_again_gives_the_same_file(ranked: Path, tmp_path: Path) -> None:
    copies = []
    for name in ("a", "b"):
        shutil.copytree(ranked / "out" / "best", tmp_path / name)
        done = run("clipcap-video", "train-consensus", "--model_dir", tmp_path / name, "--epochs", 2, "--device", "cpu")
        assert done.returncode == 0, done.stderr
        copies.append((tmp_path / name / CONSENSUS).read_bytes())
    assert copies[0] == copies[1]


def test_a_run_that_goes_on_keeps_it(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked / "out", tmp_path / "out")
    last = tmp_path / "out" / "last"
    shutil.copy(tmp_path / "out" / "best" / CONSENSUS, last)
    before = (last / "model.safetensors").read_bytes()
    info = read_config(last)[1]
    going_on, resuming = prepare(TrainConfig(**(info.training | {"out_dir": tmp_path / "out", "resume": True})))
    assert resuming
    going_on.data_digest = info.progress["data_digest"]
    going_on._save("last")  # of weights that were not restored, so that they are others
    assert (last / "model.safetensors").read_bytes() != before
    assert (last / CONSENSUS).read_bytes() == (ranked / "out" / "best" / CONSENSUS).read_bytes()
