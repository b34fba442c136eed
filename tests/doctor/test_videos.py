"""What the doctor says of video files, on clips that are really broken."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.doctor import Limits, examine, videos
from clipcap_video.doctor.videos import varying_distance
from tests.clips import blank, ffmpeg, index_first, set_frame_durations, time_scale, truncate, write_clip, write_gif
from tests.doctor.conftest import kinds, look


class TestVideoFiles:
    def test_whole_ones_of_every_container_are_clean(self, tmp_path: Path) -> None:
        for number, suffix in enumerate((".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg")):
            write_clip(tmp_path / f"clip{number}{suffix}", frames=40, fps=25, first=number)
        write_gif(tmp_path / "even.gif", [100] * 8)
        index_first(write_clip(tmp_path / "web.mp4", frames=41, fps=30000 / 1001))
        assert look(tmp_path) == {}

    @pytest.mark.parametrize(
        ("name", "damage", "kind"),
        [
            ("a.mp4", lambda path: path.write_bytes(b""), "empty"),
            ("a.mp4", lambda path: path.write_text("<html>404 Not Found</html>"), "not_video"),
            ("a.mp4", lambda path: truncate(path, 0.6), "truncated"),
            ("a.mov", lambda path: truncate(path, 0.6), "truncated"),
            ("a.mp4", lambda path: (index_first(path), truncate(path, 0.6)), "truncated"),
            ("a.mp4", lambda path: (index_first(path), truncate(path, 0.97)), "truncated"),
            ("a.avi", lambda path: truncate(path, 0.6), "truncated"),
            ("a.mkv", lambda path: truncate(path, 0.6), "truncated"),
            ("a.webm", lambda path: truncate(path, 0.6), "truncated"),
            ("a.avi", lambda path: blank(path, 0.4, 0.6), "corrupt"),
            ("a.mkv", lambda path: blank(path, 0.4, 0.6), "corrupt"),
            ("a.webm", lambda path: blank(path, 0.3, 0.5), "corrupt"),
            ("a.mp4", lambda path: blank(path, 0.02, 1.0), "corrupt"),
            ("a.mkv", lambda path: blank(path, 0.02, 1.0), "corrupt"),
        ],
    )
    def test_damage_is_told_by_kind(
        self, tmp_path: Path, name: str, damage: Callable[[Path], object], kind: str
    ) -> None:
        path = write_clip(tmp_path / name, frames=60)
        damage(path)
        write_clip(tmp_path / "good.mp4", frames=30)
        result = examine([tmp_path], progress=False)
        assert kinds(result) == {kind: ["a"]}
        assert result.findings[0].files == (str(path),)

    def test_how_much_is_missing_is_said(self, tmp_path: Path) -> None:
        truncate(write_clip(tmp_path / "a.avi", frames=60), 0.6)
        (finding,) = examine([tmp_path], progress=False).findings
        counted = len(ffmpeg("-i", tmp_path / "a.avi", "-f", "rawvideo", "-pix_fmt", "gray", "-")) // (64 * 48)
        missing = 60 - counted
        assert f"the file is truncated; {missing} of 60 frames are damaged ({missing / 60:.1%}: " in finding.message

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read every file")
    def test_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.mp4").chmod(0)
        assert look(tmp_path) == {"unreadable": ["a"]}

    def test_short_and_variable_ones(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "one.mp4", frames=1, fps=1)
        write_clip(tmp_path / "blink.mp4", frames=8, fps=25)
        uneven = write_clip(tmp_path / "uneven.mp4", frames=40)
        tick = time_scale(uneven) // 10
        set_frame_durations(uneven, [tick if number % 4 else 3 * tick for number in range(40)])
        dropped = write_clip(tmp_path / "dropped.mp4", frames=101)  # one long frame of a hundred is not a rate
        set_frame_durations(dropped, [2 * time_scale(dropped) // 10] + [time_scale(dropped) // 10] * 100)
        write_gif(tmp_path / "slides.gif", [100, 900, 100, 400, 100, 700])
        assert look(tmp_path) == {"too_short": ["blink", "one"], "variable_rate": ["slides", "uneven"]}
        assert look(tmp_path, limits=Limits(0.2, 1)) == {"variable_rate": ["slides", "uneven"]}

    def test_the_same_bytes_and_the_same_id(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.mp4")
        shutil.copy(tmp_path / "a.mp4", tmp_path / "copy.mp4")
        other = (tmp_path / "a.mp4").read_bytes()
        (tmp_path / "longer.mp4").write_bytes(other + b"\0\0\0\x08free")
        (tmp_path / "same_length.mp4").write_bytes(other.replace(b"isom", b"mp42", 1))
        (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
        (tmp_path / "sub").mkdir()
        write_clip(tmp_path / "sub" / "a.avi", first=7)
        result = examine([tmp_path], progress=False)
        assert kinds(result) == {"duplicate": ["a"], "same_id": ["a"]}
        duplicate, same_id = result.findings
        assert {Path(file).name for file in duplicate.files} == {"a.mp4", "copy.mp4"}
        assert {Path(file).name for file in same_id.files} == {"a.mp4", "a.avi"}


def test_ctrl_c_does_not_wait_for_the_videos_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.mp4" for number in range(200)]
    for file in files:
        file.write_bytes(b"")
    begun: list[Path] = []

    def slow(path: Path, stop: threading.Event) -> videos.VideoFacts:
        begun.append(path)
        stop.wait(0.02 if len(begun) < 4 else 60)
        return videos.VideoFacts(None)

    def interrupt(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(videos, "read_facts", slow)
    monkeypatch.setattr(videos, "problems", interrupt)
    with pytest.raises(KeyboardInterrupt):
        videos.examine_videos(files, Limits(), workers=2)
    assert len(begun) < 10


class TestRates:
    @pytest.mark.parametrize("rate", [1, 23.976, 25, 30000 / 1001, 60])
    def test_rounding_to_milliseconds_is_no_variable_rate(self, rate: float) -> None:
        assert varying_distance(np.round(np.arange(300) / rate, 3)) is None

    def test_distances(self) -> None:
        rng = np.random.default_rng(0)
        times = np.cumsum(rng.uniform(0.02, 0.08, size=200))
        found = varying_distance(times)
        distances = [after - before for before, after in pairwise(times)]
        assert found == pytest.approx((min(distances), max(distances)))
