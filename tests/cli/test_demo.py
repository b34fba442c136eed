"""`clipcap-video demo`, with a small captioner in the starter's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.video import samples
from tests.cli.conftest import Project
from tests.clips import write_clip
from tests.commands import run


@pytest.fixture(autouse=True)
def no_starter(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(project.out, device="cpu")
    monkeypatch.setattr(Captioner, "from_pretrained", lambda: captioner)
    clip = write_clip(tmp_path / "bikes.mp4")
    monkeypatch.setattr(samples, "sample_clips", lambda: [clip])


def test_its_clips_and_yours_are_told_apart_though_they_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("bikes", "dog"):
        write_clip(tmp_path / "mine" / f"{name}.mp4")
    done = run("clipcap-video", "demo", tmp_path / "mine", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    assert {one["video"]: Path(one["path"]).parent.name for one in found} == {
        "bikes-1": tmp_path.name, "bikes-2": "mine", "dog": "mine",
    }  # fmt: skip
    assert all(one["evidence"] and len(one["captions"]) > 1 for one in found)
    assert (tmp_path / "out" / "report.html").read_text().count('<article class="card"') == 3


def test_a_bad_video_is_named_and_the_others_are_captioned(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("this is no video")
    done = run("clipcap-video", "demo", tmp_path / "bad.mp4", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "could not read bad" in done.stderr
    assert done.stdout.startswith("bikes: ")
