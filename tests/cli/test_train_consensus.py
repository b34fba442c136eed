"""`clipcap-video train-consensus`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipcap_video.features.store import write_features
from clipcap_video.models.checkpoint import CONSENSUS
from tests.cli.test_cli import run
from tests.tiny import features_of, fingerprint


def test_features_of_another_kind_are_refused(ranked: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for number in range(4):
        made = fingerprint(encoder="another", weights="sha256:1")
        write_features(tmp_path / "other", f"video{number}", features_of(number, 2), np.arange(2.0), made)
    before = (ranked / "out" / "best" / CONSENSUS).read_bytes()
    words = ["clipcap-video", "train-consensus", "--model_dir", ranked / "out", "--data", tmp_path / "other"]
    assert "consensus.safetensors is there already" in run(*words).stderr
    done = run(*words, "--overwrite")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the features in")
    assert (ranked / "out" / "best" / CONSENSUS).read_bytes() == before
