from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenedetect import AdaptiveDetector, detect
from torch import Tensor

from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.video.decoder import Decoder
from clipcap_video.video.reader import read_frames
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import Segmentation, SegmentBuilder, SegmentedVideo, SegmentFrames
from tests.clips import numbers_in, set_frame_durations, time_scale, write_clip, write_shots

FOUR = SamplingSpec("uniform", 4)
TIMES = [round(0.1 * number, 3) for number in range(300)]  # 30 seconds


def same(frames: Tensor) -> Tensor:
    return frames


def segments(
    path: Path, text: str, spec: SamplingSpec = FOUR, start: float = 0.0, **lengths: float
) -> list[SegmentFrames]:
    return list(SegmentedVideo(path, Segmentation.parse(text, **lengths), spec, same, start))


def build(
    times: list[float], cuts: set[float], segmentation: Segmentation, spec: SamplingSpec = FOUR, waiting: int = 0
) -> list[SegmentFrames]:
    """The segments of a video whose frame at time t is one pixel of value t."""
    builder = SegmentBuilder(segmentation, spec, lambda images: images.float(), waiting=waiting)
    found = []
    for time in times:
        found += builder.add(time, partial(np.full, (1, 1, 3), time, np.float32), time in cuts)  # type: ignore[arg-type]
    return found + list(builder.finish(times[-1] + 0.1))


def bounds(found: list[SegmentFrames]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in found]


def test_pictures_are_made_of_the_frames_that_are_chosen(tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "shots.mp4", [60, 90], fps=25)
    made: list[int] = []

    def counted(frames: Tensor) -> Tensor:
        made.append(len(frames))
        return frames

    found = list(SegmentedVideo(clip, Segmentation(shortest=1), FOUR, counted))
    assert sum(made) == sum(len(segment.timestamps) for segment in found) == 8


@given(cuts=st.sets(st.integers(0, 299), max_size=6), waiting=st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_how_many_frames_may_wait_changes_nothing(cuts: set[int], waiting: int) -> None:
    segmentation, starts = Segmentation(shortest=1, longest=7), {TIMES[cut] for cut in cuts}
    few, all_of_them = (build(TIMES, starts, segmentation, waiting=most) for most in (waiting, 1000))
    assert bounds(few) == bounds(all_of_them)
    for one, other in zip(few, all_of_them, strict=True):
        np.testing.assert_array_equal(one.timestamps, other.timestamps)
        assert torch.equal(one.images, other.images)


class TestWhereSegmentsBegin:
    def test_at_cuts(self) -> None:
        found = build(TIMES, {5.0, 12.5}, Segmentation())
        assert bounds(found) == [(0, 5), (5, 12.5), (12.5, 30)]

    def test_short_shots_are_joined_with_the_next_and_a_short_last_one_with_the_one_before(self) -> None:
        found = build(TIMES, {5.0, 6.0, 6.5, 14.0, 29.0}, Segmentation())
        assert bounds(found) == [(0, 5), (5, 14), (14, 30)]

    def test_long_shots_are_split_evenly(self) -> None:
        found = build(TIMES, {26.0}, Segmentation())
        assert [segment.end for segment in found][-2:] == [26, 30]
        assert found[0].end == pytest.approx(13, abs=0.5)

    def test_a_shot_without_end_is_split_as_it_comes(self) -> None:
        builder = SegmentBuilder(Segmentation(longest=5, shortest=1), FOUR, lambda images: images.float())
        for number in range(2000):
            for segment in builder.add(number * 0.1, partial(np.zeros, (1, 1, 3), np.float32), False):  # type: ignore[arg-type]
                assert segment.end > number * 0.1 - 11
                assert segment.end - segment.start == pytest.approx(5, abs=0.7)

    def test_fixed_lengths_and_a_rest(self) -> None:
        assert bounds(build(TIMES, {5.0}, Segmentation.parse("fixed:8"))) == [(0, 8), (8, 16), (16, 24), (24, 30)]

    def test_a_rest_of_a_moment_is_no_segment(self) -> None:
        assert bounds(build(TIMES[:101], set(), Segmentation.parse("fixed:5"))) == [(0, 5), (5, 10.1)]

    def test_a_picture_that_stands_still(self) -> None:
        times = [0.0, 1.0, 2.0, 35.0, 36.0]  # nothing comes for half a minute, for nothing moves
        assert bounds(build(times, set(), Segmentation.parse("fixed:10"))) == [(0, 30), (30, 36.1)]


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([0.033, 0.04, 0.1, 0.5, 3.0]), min_size=1, max_size=300),
    st.integers(1, 5),
    st.sampled_from(["shots", "fixed:4", "fixed:0.7"]),
    st.sampled_from([FOUR, SamplingSpec("uniform", 1), SamplingSpec("fps", fps=2), SamplingSpec("head", 3, fps=1)]),
)
def test_segments_are_seamless_and_frames_lie_in_them(
    steps: list[float], every: int, text: str, spec: SamplingSpec
) -> None:
    times = [0.0, *np.cumsum(steps).round(4).tolist()]
    found = build(times, set(times[::every]), Segmentation.parse(text), spec)
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(times[-1] + 0.1, abs=1e-3)
    assert [segment.end for segment in found[:-1]] == [segment.start for segment in found[1:]]
    for segment in found:
        assert segment.start < segment.end
        assert len(segment.timestamps) == len(segment.images) > 0
        assert (np.diff(segment.timestamps) > 0).all()
        assert segment.start - 2e-3 <= segment.timestamps[0]
        assert segment.timestamps[-1] <= segment.end + 1e-3
        # Each picture is the frame of its time.
        np.testing.assert_allclose(segment.images[:, 0, 0, 0], segment.timestamps, atol=1e-3)


class TestWhichFramesASegmentHas:
    def test_the_first_and_the_last_and_even_ones_between(self) -> None:
        times = [number * 0.04 for number in range(500)]
        for segment in build(times, {8.0}, Segmentation(longest=100)):
            inside = [time for time in times if segment.start - 1e-6 <= time < segment.end - 1e-6]
            assert segment.timestamps[0] == pytest.approx(inside[0])
            assert segment.timestamps[-1] == pytest.approx(inside[-1])
            gaps = np.diff(segment.timestamps)
            assert gaps.max() < 1.6 * gaps.min()

    def test_memory_does_not_grow_with_the_segment(self) -> None:
        builder = SegmentBuilder(Segmentation.parse("fixed:10000"), FOUR, same)
        for number in range(20_000):
            list(builder.add(number * 0.04, partial(np.zeros, (1, 1, 3), np.uint8), False))
            assert len(builder._open.times) <= 4 * FOUR.frames

    def test_rates_are_counted_from_the_start_of_the_segment(self) -> None:
        times = [number * 0.1 for number in range(100)]
        found = build(times, {times[35]}, Segmentation(), SamplingSpec("fps", fps=1))
        assert [segment.timestamps.round(3).tolist() for segment in found] == [
            [0, 1, 2, 3],
            [3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5],
        ]


class TestRealFiles:
    def test_shots_begin_where_pyscenedetect_says(self, tmp_path: Path) -> None:
        lengths = [30, 45, 25, 60]
        clip = write_shots(tmp_path / "clip.mp4", lengths)
        found = segments(clip, "shots")
        theirs = detect(str(clip), AdaptiveDetector(min_scene_len=0))
        assert [segment.start for segment in found] == [round(start.seconds, 3) for start, _ in theirs]
        assert bounds(found) == [(0, 3), (3, 7.5), (7.5, 10), (10, 16)]

    def test_every_frame_is_at_its_time(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", frames=60)
        for segment in segments(clip, "fixed:2"):
            assert numbers_in(segment.images) == (segment.timestamps * 10).round().astype(int).tolist()

    def test_variable_frame_rate(self, tmp_path: Path) -> None:
        clip = write_shots(tmp_path / "clip.mp4", [40, 40, 40])
        scale = time_scale(clip)
        durations = [round(scale * seconds) for seconds in [0.1] * 40 + [0.25] * 40 + [0.05] * 40]
        set_frame_durations(clip, durations)
        starts = np.cumsum([0, *durations]) / scale
        found = segments(clip, "shots")
        assert [segment.start for segment in found] == pytest.approx([starts[0], starts[40], starts[80]], abs=1e-3)
        assert found[-1].end == pytest.approx(starts[-1], abs=0.1)

    def test_whole_sees_the_frames_that_inference_sees(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", frames=37)
        (segment,) = segments(clip, "whole")
        images, times = read_frames(clip, FOUR)
        assert numbers_in(segment.images) == numbers_in(torch.from_numpy(images).permute(0, 3, 1, 2))
        np.testing.assert_allclose(segment.timestamps, times, atol=1e-6)
        assert bounds([segment]) == [(0, 3.7)]

    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm", ".mpg"])
    def test_a_start_in_the_middle_gives_what_a_run_from_the_beginning_gives(self, tmp_path: Path, suffix: str) -> None:
        fps = 25 if suffix == ".mpg" else 10
        clip = write_clip(tmp_path / f"clip{suffix}", frames=120, fps=fps)
        whole = segments(clip, "fixed:1")
        for late in (1, 2, 4):
            part = segments(clip, "fixed:1", start=whole[late].start)
            assert bounds(part) == bounds(whole[late:])
            for ours, theirs in zip(part, whole[late:], strict=True):
                assert numbers_in(ours.images) == numbers_in(theirs.images)

    def test_entering_a_file_of_variable_rate_keeps_true_times(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", frames=90)
        scale = time_scale(clip)
        set_frame_durations(clip, [round(scale * (0.02 if number < 60 else 0.5)) for number in range(90)])
        with Decoder(clip) as decoder:
            true = [frame.time for frame in decoder]
        for start in (1.05, 3.0, 9.0, 14.0):
            with Decoder(clip) as decoder:
                late = [frame.time for frame in decoder.frames(start) if frame.time >= start]
            assert late == [time for time in true if time >= start]

    def test_no_video(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.mp4"
        file.write_text("this is no video")
        with pytest.raises(VideoError, match=r"notes\.mp4 is not a video"):
            segments(file, "shots")


@pytest.mark.parametrize(
    "text", ["scenes", "fixed", "fixed:", "fixed:ten", "fixed:0", "fixed:-1", "fixed:inf", "whole:3"]
)
def test_unknown_segmentations_are_refused(text: str) -> None:
    with pytest.raises(ClipcapError):
        Segmentation.parse(text)


def test_lengths_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ClipcapError, match="at least twice"):
        Segmentation(shortest=5, longest=8)
    with pytest.raises(ClipcapError, match="shortest"):
        Segmentation(shortest=math.nan)
