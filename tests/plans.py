"""Plans of runs: little time to measure in, and what is looked at."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from clipcap_video.runs import plan
from tests.clips import write_clip
from tests.tiny_clip import save_tiny_clip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Little time for measuring, and a place of its own for what is only made to measure."""
    import clipcap_video.training.plan

    monkeypatch.setattr(plan, "BUDGET_SECONDS", 0.2)
    monkeypatch.setattr(clipcap_video.training.plan, "BUDGET_SECONDS", 0.2)
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def rows(text: str) -> dict[str, str]:
    return {line.split()[0]: line.split(None, 1)[1] for line in text.splitlines()[1:] if len(line.split()) > 1}


def everything(*folders: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(7):
        write_clip(folder / f"video{number}.mp4", frames=5)
    save_tiny_clip(tmp_path / "clip.pt")
    return folder
