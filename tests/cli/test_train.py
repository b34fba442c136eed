"""`train_vtt.py` and `clipcap-video train`: what is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Project
from tests.commands import refused


def test_annotations(project: Project, tmp_path: Path, tiny_lm: Path) -> None:
    train = [
        "train_vtt.py",
        "--data",
        project.features,
        "--out_dir",
        tmp_path / "out",
        "--lm",
        tiny_lm,
        "--caption",
    ]
    (tmp_path / "bad.json").write_text("{")
    assert "not JSON" in refused(*train, tmp_path / "bad.json")
    (tmp_path / "lacks.json").write_text(json.dumps({"videos": [{"video_id": "video1", "split": "train"}]}))
    assert "sentences" in refused(*train, tmp_path / "lacks.json")
    assert "unknown device" in refused(*train, project.annotations, "--device", "toaster")
    assert not (tmp_path / "out").exists()
