"""The pictures of a page: how many, how large, and of which moments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from clipcap_video.captioning.predictions import Prediction
from clipcap_video.report.entries import Pictures
from clipcap_video.report.page import encode_picture
from clipcap_video.video.reader import read_frames
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import numbered_frame, numbers_of_grid, write_clip


def test_pictures_of_many_videos_are_smaller() -> None:
    assert Pictures.for_page_of(300) == Pictures(8, 240, 75)
    assert Pictures.for_page_of(301) == Pictures(5, 160, 55)
    assert Pictures.for_page_of(2000, frames=2, side=99) == Pictures(2, 99, 55)
    # A busy picture in the small size: at five a video, 2,000 videos stay below 40 MB with room for words.
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8), (0, 0), 3)
    assert len(encode_picture(noise, 160, 55).data) * 4 / 3 * 5 * 2000 < 40e6


def test_pictures_show_the_frames_at_their_times(tmp_path: Path) -> None:
    from clipcap_video.report.entries import _frames

    path = write_clip(tmp_path / "clip.mkv", frames=40)
    images, times = read_frames(path, SamplingSpec(frames=10))
    prediction = Prediction("clip", [], [float(time) for time in times], path=str(path))
    (frames,) = _frames([prediction], Pictures(4, 64, 95))
    blocks = []
    for frame in frames:
        assert frame.picture is not None
        bgr = cv2.imdecode(np.frombuffer(frame.picture.data, np.uint8), cv2.IMREAD_COLOR)
        blocks.append(bgr.mean(axis=2).reshape(3, 16, 4, 16).mean(axis=(1, 3)).reshape(-1))
    assert images[0].shape == numbered_frame(0).shape
    shown = numbers_of_grid(np.stack(blocks))
    chosen = [0, 3, 6, 9]  # of ten sampled, four evenly spread
    assert [frame.seconds for frame in frames] == [float(times[place]) for place in chosen]
    assert shown == [round(place * 39 / 9) if place in (0, 9) else int(place * 39 / 9) for place in chosen]


def test_segments_of_one_video_show_what_each_would_by_itself(tmp_path: Path) -> None:
    from clipcap_video.report.entries import LONGEST_RUN, _frames, _runs

    path, other = write_clip(tmp_path / "a.mkv", frames=60), write_clip(tmp_path / "b.mkv", frames=60)
    _, times = read_frames(path, SamplingSpec(frames=60))
    segments = [
        Prediction("a", [], times[first : first + 20].tolist(), path=str(path), start=1.0) for first in (0, 20, 40)
    ]
    elsewhere = replace(segments[0], path=str(other))
    overlapping = replace(segments[1], timestamps=times[35:50].tolist())
    unknown = replace(segments[1], timestamps=[])
    given = [*segments, elsewhere, segments[1], overlapping, unknown, segments[2]]
    runs = list(_runs(given))
    assert [len(run) for run in runs] == [3, 1, 1, 1, 1, 1]
    assert [found for run in runs for found in run] == given
    assert [len(run) for run in _runs([replace(segments[0], timestamps=[1.0])] * (LONGEST_RUN + 1))] == [LONGEST_RUN, 1]
    small = Pictures(4, 64, 95)
    assert _frames(segments, small) == [_frames([segment], small)[0] for segment in segments]
    pictures = {frame.picture for part in _frames(segments, small) for frame in part}
    assert len(pictures) == 12  # each of its own place
