"""`clipcap-video doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcap_video import console
from clipcap_video.metrics import java
from tests.clips import truncate, write_clip
from tests.commands import run


class TestCommand:
    def test_exit_status_table_and_json(self, tmp_path: Path) -> None:
        folder = tmp_path / "videos"
        folder.mkdir()
        write_clip(folder / "good.mp4")
        done = run("clipcap-video", "doctor", "--videos", folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("nothing found\n")

        for number in range(4):
            (folder / f"empty{number}.mp4").write_bytes(b"")
        truncate(write_clip(folder / "cut.avi", frames=60), 0.6)
        before = sorted(tmp_path.rglob("*"))
        done = run("clipcap-video", "doctor", "--videos", folder, "--most", "2", "--json", tmp_path / "found.json")
        assert done.returncode == 1
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [line[1] for line in lines if line[:1] == ["empty"]] == ["empty0", "empty1", "...", "4"]
        assert ["empty", "4", "errors:"] in [line[:3] for line in lines]
        made = [tmp_path / "found.json", tmp_path / "found.run.yaml"]
        assert sorted(tmp_path.rglob("*")) == sorted([*before, *made])
        report = json.loads((tmp_path / "found.json").read_text())
        assert [finding["kind"] for finding in report["findings"]] == ["empty"] * 4 + ["truncated"]
        assert all(finding["advice"] and finding["severity"] == "error" for finding in report["findings"])
        assert report["checked"]["videos"] == 6

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--videos", ".", "--json", "/dev/null/found.json"],
            ["--videos", "nowhere"],
            ["--data", "nowhere"],
            ["--workers", "-1", "--videos", "."],
            ["--no_such", "1"],
        ],
    )
    def test_usage(self, tmp_path: Path, arguments: list[str]) -> None:
        write_clip(tmp_path / "a.mp4")
        done = run("clipcap-video", "doctor", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "rror" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture(autouse=True)
def usual_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)
    monkeypatch.setattr(console, "_level", console.USUAL)


def test_the_doctor_ends_well_on_warnings_alone(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    assert run("clipcap-video", "doctor", ".", cwd=tmp_path).returncode == 0
    assert run("clipcap-video", "doctor", ".", "--strict", cwd=tmp_path).returncode == 1
    truncate(write_clip(tmp_path / "cut.avi", frames=60), 0.6)
    assert run("clipcap-video", "doctor", ".", cwd=tmp_path).returncode == 1


def test_a_utf_16_list_of_videos_as_powershell_writes_it(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4\r\n", encoding="utf-16")
    assert run("clipcap-video", "doctor", "list.txt", cwd=tmp_path).returncode == 0
