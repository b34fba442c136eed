"""--dry_run: right counts, nothing written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.runs import plan
from clipcap_video.runs.plan import Plan, in_bytes, in_words, measure
from tests.clips import write_clip
from tests.commands import run
from tests.plans import everything, rows, short, videos  # noqa: F401  (fixtures)

# ruff: noqa: F811


class TestExtract:
    def test_counts_and_writes_nothing(self, videos: Path, tmp_path: Path, short: Path) -> None:
        extract = ["extract_features.py", "--encoder", "clip.pt", "--frames", "3", "--device", "cpu", "--videos"]
        before = everything(tmp_path)
        done = run(*extract, "videos", "--dry_run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert everything(tmp_path, short) == before
        said = rows(done.stdout)
        assert (said["videos"], said["frames"]) == ("7", "about 21")
        assert said["time"].startswith("about ")

        assert run(*extract, "videos", cwd=tmp_path).returncode == 0
        written = sum(file.stat().st_size for file in (tmp_path / "features").glob("*.safetensors"))
        # To the byte, for all the videos were measured and are alike.
        assert said["disk"] == f"about {in_bytes(written)} in features"
        write_clip(videos / "video7.mp4")
        before = everything(tmp_path)
        assert rows(run(*extract, "videos", "--dry_run", cwd=tmp_path).stdout)["videos"] == "1, and 7 done already"
        (videos / "video7.mp4").unlink()
        assert "nothing to do" in run(*extract, "videos", "--dry_run", cwd=tmp_path).stdout
        # What would stop the run stops its plan.
        other = run(*extract, "videos", "--dry_run", "--frames", "2", cwd=tmp_path)
        assert (other.returncode, "extract into another folder" in other.stderr) == (1, True)

    def test_videos_that_cannot_be_read_are_said(self, videos: Path, tmp_path: Path) -> None:
        (videos / "video3.mp4").write_bytes(b"")
        done = run("extract_features.py", "--videos", videos, "--encoder", tmp_path / "clip.pt", "--dry_run")
        assert "1 of the 7 videos looked at cannot be read" in done.stdout


class TestMeasuring:
    def test_a_rate_without_what_comes_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A clock that costs 100 s at the first call, 2 s a call and 1 s an item."""
        clock = [0.0]
        seen: list[int] = []

        def work(part: Sequence[int]) -> None:
            clock[0] += 2 + len(part) + (0 if seen else 100)
            seen.extend(part)

        monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[0])
        monkeypatch.setattr(plan, "BUDGET_SECONDS", 60)
        rate = measure(list(range(1000)), work, first=4, probe=8)
        assert (rate.items, rate.seconds) == (40, 42)  # 8 items took 10 s, so 40 are thought to take 50 s
        assert len(set(seen)) == len(seen) == 4 + 8 + 40
        for count, expected in ((0, 0), (3, 105), (4, 106), (9, 7), (12, 10), (15, 15), (20, 10)):
            seen.clear()
            assert measure(list(range(count)), work, first=4, probe=8).seconds == expected

    def test_it_looks_at_all_of_the_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "BUDGET_SECONDS", 0)
        drawn: list[int] = []
        measure(list(range(1000)), drawn.extend, probe=200)
        assert np.mean(drawn) == pytest.approx(500, abs=60)

    @pytest.mark.parametrize(
        ("value", "said"),
        [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (56_789, "57 kB"), (1.2e9, "1.2 GB"), (3.4e12, "3.4 TB")],
    )
    def test_bytes(self, value: float, said: str) -> None:
        assert in_bytes(value) == said

    def test_times(self) -> None:
        assert [in_words(seconds) for seconds in (0.04, 12.3, 200, 3000, 9000)] == [
            "0.0 s", "12 s", "3 min 20 s", "50 minutes", "2.5 hours",
        ]  # fmt: skip

    def test_a_plan_in_words(self) -> None:
        text = Plan(
            "train", 10, frames=40, steps=100, warmup=5, disk=10**6, where="out", measured_on="3 steps"
        ).describe()
        assert re.search(r"steps +100, of which 5 warm up", text)
