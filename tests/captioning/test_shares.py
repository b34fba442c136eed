"""`infer --shard`: runs that share the videos, whose tables together are those of one run."""

# ruff: noqa: F811
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.metrics import java
from tests.cli.conftest import Project, project  # noqa: F401  (a fixture)
from tests.clips import truncate, write_clip
from tests.commands import refused, run


@pytest.fixture
def clips(project: Project, tmp_path: Path) -> Path:
    folder = shutil.copytree(project.videos, tmp_path / "clips")
    truncate(write_clip(folder / "video7.avi", 40), 0.97)
    return folder


def infer(project: Project, *words: object, cwd: Path) -> Any:
    shared = ["clips", "--model_dir", project.out, "--device", "cpu", "--max_damage", "0.5"]
    return run("clipcap-video", "infer", *shared, *words, cwd=cwd)


def test_all_shares_are_one_run(project: Project, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)
    words = ["--to", "json", "--to", "csv", "--annotations", project.annotations]
    whole = infer(project, *words, "--out", "whole.json", cwd=tmp_path)
    assert whole.returncode == 1  # for the one that is no video
    shares = {number: infer(project, *words, "--out", "p.json", "--shard", f"{number}/3", cwd=tmp_path)
              for number in (3, 1, 2)}  # fmt: skip
    # video2, video5 and the damaged one; video0, video3 and the one that is none; video1 and video4.
    assert [shares[number].returncode for number in (1, 2, 3)] == [1, 0, 0], shares
    assert not (tmp_path / "predictions.json").exists()
    assert (
        "share 3 of 3 is in p.shards; p.json is written when all are, and 2 others are to be done" in shares[3].stdout
    )
    assert "and another is to be done, e.g. --shard 2/3" in shares[1].stdout
    assert "captions: p.json\n" in shares[2].stdout
    for name in ("{}.json", "{}.csv", "{}.scores.json", "{}.warnings.jsonl"):
        one, joined = (tmp_path / name.format(stem) for stem in ("whole", "p"))
        assert joined.read_text() == one.read_text(), name
    assert "video7" in (tmp_path / "p.warnings.jsonl").read_text()
    lines = sorted(line for number in (1, 2, 3) for line in shares[number].stdout.splitlines() if line[:5] == "video")
    assert lines == sorted(line for line in whole.stdout.splitlines() if line[:5] == "video")


def test_a_share_resumes_and_replaces_its_part(
    project: Project, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(number: int, *words: object) -> Any:
        return infer(project, "--shard", f"{number}/2", *words, cwd=tmp_path)

    real, left = Captioner.caption_store, [1]

    def broken(self: Captioner, *rest: Any, **more: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return real(self, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "caption_store", broken)
        assert share(1, "--bs", 2).returncode == 130
    assert not (tmp_path / "predictions.json").exists()
    assert share(2).returncode == 0
    assert not (tmp_path / "predictions.json").exists()
    again = share(1)
    assert "2 of 4 videos done before" in again.stderr
    assert (tmp_path / "predictions.json").exists()
    # Repaired, a video is captioned by the run of its share alone, and the whole is written anew.
    shutil.copy(clips / "video0.mp4", clips / "video6.mp4")
    (tmp_path / "predictions.json").unlink()
    assert "3 of 4 videos done before" in share(1).stderr
    found = json.loads((tmp_path / "predictions.json").read_text())["predictions"]
    assert [one["video"] for one in found] == [f"video{number}" for number in range(8)]
    assert "done before" not in share(1, "--overwrite").stderr
    # What was decided otherwise is no part of it.
    assert "was begun with decoding" in share(2, "--use_beam_search").stderr
    shutil.rmtree(tmp_path / "predictions.shards")
    (tmp_path / "predictions.json").unlink()
    share(1, "--use_beam_search")
    assert "--shard 1/2" in share(2).stdout


def test_sidecars_need_no_joining(project: Project, clips: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        infer(project, "--to", "txt", "--sidecar_dir", "texts", "--shard", f"{number}/2", cwd=tmp_path)
    assert len(list((tmp_path / "texts").iterdir())) == 7
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clips", "texts"]


def test_what_makes_no_sense_is_one_sentence(project: Project, clips: Path, tmp_path: Path) -> None:
    words = ["clipcap-video", "infer", "--model_dir", project.out]
    assert "--shard '3/2' is no share of the videos" in refused(*words, "clips", "--shard", "3/2", cwd=tmp_path)
    assert "--shard belongs to --videos" in refused(*words, "--shard", "1/2", cwd=tmp_path)
    said = refused(*words, "clips", "--shard", "1/2", "--to", "txt", "--report", "page.html", cwd=tmp_path)
    assert "--report shows the videos of all shares" in said
