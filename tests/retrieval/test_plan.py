"""What `train-retrieval` would take, and that nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bag_of_words import use_bag_of_words
from tests.commands import run
from tests.conftest import TinyProject
from tests.plans import rows, short  # noqa: F401  (fixtures)
from tests.tiny import features_of


class TestTrainRetrieval:
    def test_counts_and_writes_nothing(
        self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_bag_of_words(monkeypatch)
        train = [
            "clipcap-video", "train-retrieval", "--features", tiny_project.data, "--annotations", tiny_project.caption,
            "--text_encoder", "bag-of-words", "--dim", "8", "--bs", "8", "--epochs", "4", "--device", "cpu",
            "--max_frames", "3", "--save_every", "2", "--precision", "fp32", "--out", tmp_path / "out",
        ]  # fmt: skip
        done = run(*train, "--dry_run")
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.iterdir()) == []
        said = rows(done.stdout)
        assert done.stdout.startswith("train-retrieval would take (nothing was written)")
        assert (said["videos"], said["captions"]) == ("24", "72")
        assert said["steps"] == "12, of which 1 warm up"
        assert said["frames"] == str(sum(min(len(features_of(number)), 3) for number in range(24)))
        assert "4 of " in said["time"]  # a validation an epoch
        assert run(*train).returncode == 0
        names = ("model.safetensors", "training_state.pt")
        written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.name in names)
        figure, unit = said["disk"].split()[1:3]
        assert float(figure) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(written, rel=0.6)  # tiny: mostly headers
        assert run(*train, "--dry_run").returncode == 1  # there is a run already
