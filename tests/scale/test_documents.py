"""The examples of docs/scale.md, run as they stand, and the classes without an engine."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.scale import FeatureExtractor
from clipcap_video.video.sampling import SamplingSpec
from tests import clips

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scale.md").read_text(), flags=re.DOTALL)


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


@pytest.mark.slow
@pytest.mark.parametrize("library", ["ray", "daft"])
def test_the_examples_run(tmp_path: Path, library: str) -> None:
    pytest.importorskip(library)
    (tmp_path / "clips").mkdir()
    for number in range(2):
        clips.write_clip(tmp_path / "clips" / f"video{number}.mp4", 5)
    (example,) = [text for text in EXAMPLES if f"import {library}\n" in text]
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if library == "ray":
        import pyarrow.parquet as parquet

        tables = [parquet.read_table(file) for file in (tmp_path / "features").glob("*.parquet")]
        assert sum(len(table) for table in tables) == 2
    else:
        assert "caption" in done.stdout
