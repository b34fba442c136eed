"""`clipcap-video convert`: features into other layouts, and which checkpoints it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipcap_video.features.layouts import open_features
from tests.cli.conftest import Project
from tests.commands import refused, run
from tests.tiny import features_of, write_feature_folder


@pytest.mark.parametrize("layout", ["hdf5", "parquet", "safetensors"])
def test_features_are_the_same_in_every_layout(tmp_path: Path, layout: str) -> None:
    pytest.importorskip({"hdf5": "h5py", "parquet": "pyarrow"}.get(layout, "numpy"))
    folder = write_feature_folder(tmp_path / "features", range(5))
    out = tmp_path / ("new.hdf5" if layout == "hdf5" else "new")
    done = run("clipcap-video", "convert", folder, "--out", out, "--format", layout)
    assert (done.returncode, done.stdout) == (0, f"features of 5 videos written to {out}\n")
    store = open_features(out)
    for number in range(5):
        assert np.array_equal(store.load(f"video{number}").features, features_of(number).astype(np.float16))


def test_what_needs_no_conversion_or_cannot_be_converted_is_said(project: Project, tmp_path: Path) -> None:
    convert = ["clipcap-video", "convert", project.out, "--out", tmp_path / "new"]
    assert "needs no conversion; give it to the other commands with --model_dir" in refused(*convert)
    assert "--shard_mb belongs to --format parquet" in refused(*convert, "--shard_mb", "1")
    assert "give --out a name that ends in .hdf5" in refused(*convert, "--format", "hdf5")  # no command would read it
    assert not (tmp_path / "new").exists()
