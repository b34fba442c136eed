"""`clipcap-video train-retrieval` and `evaluate-retrieval`."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import TinyProject
from tests.retrieval.conftest import Command, run  # noqa: F401  (a fixture)


def test_from_the_command_line(tiny_project: TinyProject, tmp_path: Path, run: Command) -> None:  # noqa: F811
    bad = run("train-retrieval", "--data", tmp_path / "none", "--caption", tiny_project.caption)
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: no features at")
    assert len(bad.stderr.splitlines()) == 1
    bad = run("evaluate-retrieval", "--model_dir", tmp_path)
    assert (bad.returncode, len(bad.stderr.splitlines())) == (1, 1)
