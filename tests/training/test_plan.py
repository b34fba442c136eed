"""What `train` would take, and that nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import run
from tests.conftest import TinyProject
from tests.plans import rows, short  # noqa: F401  (fixtures)
from tests.tiny import features_of


class TestTrain:
    def test_counts_and_writes_nothing(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        train = [
            "train_vtt.py", "--data", tiny_project.data, "--caption", tiny_project.caption, "--lm", tiny_project.lm,
            "--num_layers", "1", "--bs", "5", "--epochs", "8", "--device", "cpu", "--out_dir", tmp_path / "out",
            "--only_prefix", "--save_every", "4", "--precision", "fp32",
        ]  # fmt: skip
        done = run(*train, "--dry_run")
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.iterdir()) == []
        said = rows(done.stdout)
        # 24 videos in batches of 5 are 5 steps an epoch; a twentieth of 40 steps warms up.
        assert (said["videos"], said["captions"]) == ("24", "72")
        assert said["steps"] == "40, of which 2 warm up"
        assert said["frames"] == str(sum(len(features_of(number)) for number in range(24)))
        assert run(*train, "--max_minutes", "1e-9").returncode == 0
        done = run(*train, "--dry_run", "--resume")
        assert rows(done.stdout)["steps"] == "39, of which 1 warm up"
        assert run(*train, "--dry_run").returncode == 1  # there is a run already

    def test_disk(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        from clipcap_video.training.config import TrainConfig
        from clipcap_video.training.plan import plan_training
        from clipcap_video.training.run import train

        config = TrainConfig(
            data=tiny_project.data, caption=[tiny_project.caption], lm=str(tiny_project.lm), out_dir=tmp_path / "out",
            num_layers=2, bs=12, epochs=3, save_every=2, device="cpu", precision="fp32",
        )  # fmt: skip
        planned = plan_training(config).disk
        train(config)
        names = ("model.safetensors", "training_state.pt")
        written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.name in names)
        assert planned == pytest.approx(written, rel=0.1)
