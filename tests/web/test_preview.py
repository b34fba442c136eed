"""What browsers play: the file where it can be, else a small copy of its picture."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from clipcap_video.errors import VideoError
from clipcap_video.video.reader import read_frames
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.web.preview import SIDE, plays, write_preview
from tests.clips import encode, ffmpeg, write_shots


@pytest.fixture
def h264(tmp_path: Path) -> Path:
    clip = write_shots(tmp_path / "shots.mkv", [10, 10])
    ffmpeg("-i", clip, "-c:v", "libx264", "-pix_fmt", "yuv420p", tmp_path / "h264.mp4")
    return tmp_path / "h264.mp4"


def test_what_browsers_play_is_played_as_it_is(h264: Path, tmp_path: Path) -> None:
    assert plays(h264)
    assert plays(write_shots(tmp_path / "a.webm", [10]))
    assert not plays(write_shots(tmp_path / "a.avi", [10]))
    assert not plays(write_shots(tmp_path / "a.mp4", [10]))  # MPEG-4 part 2
    other = h264.with_suffix(".mkv")
    ffmpeg("-i", h264, "-c", "copy", other)
    assert not plays(other)  # not in every browser
    ffmpeg("-i", h264, "-c:v", "libx264", "-pix_fmt", "yuv444p", h264.with_stem("fine"))
    assert not plays(h264.with_stem("fine"))


def test_a_preview_shows_the_same_at_the_same_times(tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "a.avi", [13, 21], size=(801, 401))
    preview = tmp_path / "a.mp4"
    write_preview(clip, preview)
    assert plays(preview)
    with av.open(str(preview)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (SIDE, 320)
    before, times = read_frames(clip, SamplingSpec("fps", fps=5.0), max_side=160)
    after, same = read_frames(preview, SamplingSpec("fps", fps=5.0), max_side=160)
    assert same == pytest.approx(times, abs=0.002)
    assert np.abs(before[:, 5:75, 5:155].astype(int) - after[:, 5:75, 5:155]).mean() < 8


def test_odd_sides_become_even(tmp_path: Path) -> None:
    clip = encode(tmp_path / "odd.mkv", (np.full((35, 51), 9 * number, np.uint8) for number in range(5)), 10)
    write_preview(clip, tmp_path / "odd.mp4")
    assert len(read_frames(tmp_path / "odd.mp4", SamplingSpec(frames=9))[0]) == 5


def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.avi").write_text("no video")
    with pytest.raises(VideoError):
        plays(tmp_path / "notes.avi")
