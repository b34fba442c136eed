"""`extract_features.py` and `clipcap-video extract`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Project
from tests.clips import truncate, write_clip
from tests.commands import refused, run
from tests.tiny_clip import save_tiny_clip


def test_extraction_left_features_and_named_the_failure(project: Project) -> None:
    assert sorted(path.name for path in project.features.iterdir()) == [
        ".request.json", "failures.jsonl", "run.yaml", *(f"video{number}.safetensors" for number in range(6)),
    ]  # fmt: skip
    failure = json.loads((project.features / "failures.jsonl").read_text())
    assert failure["video"] == "video6"
    assert "video6.mp4" in failure["reason"]


def test_videos(project: Project, tmp_path: Path) -> None:
    extract = ["extract_features.py", "--encoder", project.clip, "--out", tmp_path / "features", "--videos"]
    assert "nowhere" in refused(*extract, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no video" in refused(*extract, tmp_path / "empty")
    assert not (tmp_path / "features").exists()


def test_bad_videos_are_failures_with_a_reason(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "text.mp4").write_text("this is no video")
    (folder / "nothing.mp4").write_bytes(b"")
    truncate(write_clip(folder / "cut.mp4", frames=30), 0.4)
    write_clip(folder / "good.mp4")
    done = run("extract_features.py", "--videos", folder, "--out", tmp_path / "f", "--encoder", project.clip)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    failures = [json.loads(line) for line in (tmp_path / "f" / "failures.jsonl").read_text().splitlines()]
    assert sorted(failure["video"] for failure in failures) == ["cut", "nothing", "text"]
    assert all(f"{failure['video']}.mp4" in failure["reason"] for failure in failures)
    assert (tmp_path / "f" / "good.safetensors").exists()


def test_encoders_and_sampling(project: Project, tmp_path: Path) -> None:
    extract = ["extract_features.py", "--videos", project.videos, "--out", project.features]
    assert "unknown encoder 'vit'" in refused(*extract, "--encoder", "vit")
    assert "nowhere.pt" in refused(*extract, "--encoder", "nowhere.pt")
    before = {path.name: path.read_bytes() for path in project.features.iterdir()}
    assert "extract" in refused(*extract, "--encoder", project.clip, "--frames", "3")  # another sampling
    other = save_tiny_clip(tmp_path / "other.pt", seed=1)
    sentence = refused(*extract, "--encoder", other, "--frames", "6")
    assert "other.pt" in sentence
    assert "tiny-clip.pt" in sentence
    assert {path.name: path.read_bytes() for path in project.features.iterdir()} == before
    assert "--bs" in refused(*extract, "--encoder", project.clip, "--bs", "0")
