"""Shots are found on frames that are scaled down while they are decoded."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np

from clipcap_video.video.decoder import Decoder
from clipcap_video.video.shots import LOOK, ShotDetector
from tests.clips import write_shots


def test_they_begin_where_the_picture_changes(tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "shots.mp4", [20, 30, 25], fps=10, size=(640, 480))
    detector = ShotDetector()
    with Decoder(clip) as decoder:
        looks = [look for frame in decoder for look in detector.add(frame)]
    looks += detector.flush()
    assert [round(frame.time, 2) for frame, is_cut in looks if is_cut] == [2.0, 5.0]
    assert [frame.number for frame, _ in looks] == list(range(75))  # late, but all of them


def test_small_pictures_show_the_same(tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "shots.mp4", [4], size=(640, 480))
    with Decoder(clip) as decoder:
        frame = next(iter(decoder))
        whole, small = frame.picture(), frame.picture(LOOK)
    assert whole is not None
    assert small is not None
    assert whole.shape == (480, 640, 3)
    assert small.shape == (192, 256, 3)
    blocks = np.abs(whole.reshape(6, 80, 8, 80, 3).mean((1, 3)) - small.reshape(6, 32, 8, 32, 3).mean((1, 3)))
    assert blocks.max() < 8  # of 255


def test_frames_that_were_looked_at_do_not_pile_up(tmp_path: Path) -> None:
    """The commands let Python's garbage collector run seldom."""
    clip = write_shots(tmp_path / "long.mp4", [100])
    gc.collect()
    gc.disable()
    try:
        others = _frames_alive()
        with Decoder(clip) as decoder:
            for frame in decoder:
                frame.picture(LOOK)
            held = _frames_alive() - others
    finally:
        gc.enable()
    assert held < 5


def _frames_alive() -> int:
    return sum(type(one).__name__ == "VideoFrame" for one in gc.get_objects())
