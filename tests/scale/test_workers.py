"""What an engine runs, without an engine."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.scale import FeatureExtractor
from clipcap_video.video.sampling import SamplingSpec
from tests import clips


def test_a_worker_takes_and_gives_columns_and_survives_pickling(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra starter is not installed")
    good = clips.write_clip(tmp_path / "a.mp4", 5)
    (tmp_path / "b.mp4").write_text("no video")
    worker = FeatureExtractor("efficientnet-lite2", sampling=SamplingSpec("uniform", 3), device="cpu")
    batch = {"path": np.array([str(good), str(tmp_path / "b.mp4")], object), "number": np.array([7, 8])}
    made, again = worker(batch), pickle.loads(pickle.dumps(worker))(batch)
    assert made["number"].tolist() == [7, 8]
    assert [features.shape for features in made["features"]] == [(3, 1280), (0, 1280)]
    assert made["features"][0].dtype == np.float16
    assert len(made["timestamps"][0]) == 3
    assert made["error"][0] == ""
    assert "b.mp4 is not a video" in made["error"][1]
    np.testing.assert_array_equal(made["features"][0], again["features"][0])
