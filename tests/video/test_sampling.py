"""Index arithmetic against hand-computed choices and brute force."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import (
    TIME_TOLERANCE,
    FrameClock,
    SamplingSpec,
    Span,
    base_indices,
    choose,
    to_key_frames,
)


def constant(count: int, rate: float) -> np.ndarray:
    return np.arange(count) / rate


increasing_times = st.lists(st.integers(1, 3000), min_size=0, max_size=60).map(
    lambda steps: np.cumsum([0, *steps]) / 1000.0
)


def test_base_frames_are_the_first_at_or_after_each_multiple() -> None:
    # Frames every 0.4 s: the first at or after 0, 1, 2, 3 s are at 0, 1.2, 2.0 and 3.2 s.
    assert base_indices(constant(10, 2.5), 1.0).tolist() == [0, 3, 5, 8]
    # One frame is the first after both 1 s and 2 s: it counts once.
    assert base_indices(np.array([0.0, 0.5, 2.5, 2.6, 3.0]), 1.0).tolist() == [0, 2, 4]
    assert base_indices(constant(4, 25), None).tolist() == [0, 1, 2, 3]
    assert base_indices(np.zeros(0), 1.0).tolist() == []


def test_times_rounded_to_milliseconds_lose_no_frame() -> None:
    rounded = np.round(constant(90, 30), 3)
    assert len(base_indices(rounded, 30.0)) == 90
    assert len(base_indices(rounded, 10.0)) == 30


@given(increasing_times, st.sampled_from([0.5, 1.0, 2.0, 3.0, 29.97]))
def test_base_frames_equal_a_search_over_multiples(times: np.ndarray, fps: float) -> None:
    found: set[int] = set()
    for multiple in range(int((times[-1] + 1) * fps) + 1):
        after = [i for i, time in enumerate(times) if (time + TIME_TOLERANCE) * fps >= multiple]
        found.update(after[:1])
    assert base_indices(times, fps).tolist() == sorted(found)
    clock = FrameClock(fps)
    assert [i for i, time in enumerate(times.tolist()) if clock.is_base(time)] == sorted(found)


@pytest.mark.parametrize(
    ("spec", "count", "expected"),
    [
        # linspace(0, 9, 4) = 0, 3, 6, 9; linspace(0, 10, 4) = 0, 3.3, 6.7, 10
        (SamplingSpec("uniform", 4), 10, [0, 3, 6, 9]),
        (SamplingSpec("uniform", 4), 11, [0, 3, 6, 10]),
        (SamplingSpec("uniform", 1), 11, [0]),
        (SamplingSpec("uniform", 4), 3, [0, 1, 2]),
        (SamplingSpec("uniform", 3, fps=1), 50, [0, 20, 40]),  # of base frames 0, 10, 20, 30, 40
        (SamplingSpec("head", 3), 50, [0, 10, 20]),
        (SamplingSpec("head", 3, fps=5), 50, [0, 2, 4]),
        (SamplingSpec("head", 9), 50, [0, 10, 20, 30, 40]),
        (SamplingSpec("tail", 3), 50, [20, 30, 40]),
        (SamplingSpec("tail", 9), 50, [0, 10, 20, 30, 40]),
        (SamplingSpec("fps"), 31, [0, 10, 20, 30]),
        (SamplingSpec("fps", max_frames=2), 31, [0, 30]),
        (SamplingSpec("fps", max_frames=9), 31, [0, 10, 20, 30]),
        # step 10 // 4 = 2, the first four of 0 2 4 6 8
        (SamplingSpec("reference", 4), 10, [0, 2, 4, 6]),
        (SamplingSpec("reference", 4), 12, [0, 3, 6, 9]),
        (SamplingSpec("reference", 4), 7, [0, 1, 2, 3]),
        (SamplingSpec("reference", 4), 3, [0, 1, 2]),
    ],
)
def test_choices_by_hand(spec: SamplingSpec, count: int, expected: list[int]) -> None:
    assert choose(spec, constant(count, 10)).tolist() == expected


@given(st.integers(0, 400))
def test_reference_takes_what_the_reference_program_takes(count: int) -> None:
    step = max(count // 28, 1)
    kept = [index for index in range(count) if index % step == 0][:28]
    assert choose(SamplingSpec("reference"), constant(count, 25)).tolist() == kept


specs = st.one_of(
    st.builds(SamplingSpec, st.just("uniform"), st.integers(1, 40), st.sampled_from([None, 1, 2.5])),
    st.builds(SamplingSpec, st.sampled_from(["head", "tail"]), st.integers(1, 40), st.sampled_from([None, 2, 30])),
    st.builds(
        SamplingSpec,
        st.just("fps"),
        st.integers(-3, 40),
        st.sampled_from([None, 2, 0.5]),
        st.one_of(st.none(), st.integers(1, 20)),
    ),
    st.builds(SamplingSpec, st.just("reference"), st.integers(1, 40)),
)


@given(specs, increasing_times)
def test_a_choice_is_ascending_without_duplicates_and_within_its_limit(spec: SamplingSpec, times: np.ndarray) -> None:
    chosen = choose(spec, times)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen.min(initial=0) <= chosen.max(initial=0) < len(times)
    available = len(base_indices(times, spec.fps))
    most = spec.max_frames if spec.sampling == "fps" else spec.frames
    assert len(chosen) == (available if most is None else min(most, available))


@given(specs)
def test_a_spec_survives_its_stored_form(spec: SamplingSpec) -> None:
    assert SamplingSpec(**json.loads(json.dumps(asdict(spec)))) == spec


def test_left_out_rates_are_resolved_and_idle_fields_normalised() -> None:
    assert SamplingSpec("head").fps == SamplingSpec("tail").fps == SamplingSpec("fps").fps == 1.0
    assert SamplingSpec("uniform").fps is None
    assert SamplingSpec("reference").fps is None
    assert SamplingSpec("fps", frames=3, fps=1) == SamplingSpec("fps", frames=28)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"sampling": "middle"}, "uniform"),
        ({"frames": 0}, "0 frames"),
        ({"sampling": "head", "frames": -1}, "-1"),
        ({"fps": 0}, "fps"),
        ({"sampling": "fps", "fps": -2.0}, "-2"),
        ({"fps": float("nan")}, "nan"),
        ({"sampling": "reference", "fps": 1.0}, "reference"),
        ({"sampling": "uniform", "max_frames": 5}, "max_frames"),
        ({"sampling": "fps", "max_frames": 0}, "max_frames"),
    ],
)
def test_senseless_specs_are_refused(fields: dict, word: str) -> None:
    with pytest.raises(ClipcapError, match=word):
        SamplingSpec(**fields)


@given(
    times=increasing_times,
    count=st.integers(1, 12),
    marks=st.lists(st.booleans(), min_size=61, max_size=61),
)
def test_frames_move_to_key_frames_that_are_near(times: np.ndarray, count: int, marks: list[bool]) -> None:
    keys = np.flatnonzero([True, *marks[1 : len(times)]])
    chosen = choose(SamplingSpec(frames=count), times)
    moved = to_key_frames(chosen, times, keys)
    assert (np.diff(moved) > 0).all()
    assert choose(SamplingSpec(frames=count, key_frames=True), times, keys=keys).tolist() == moved.tolist()
    for place, (old, new) in enumerate(zip(chosen, moved, strict=True)):  # brute force
        others = np.delete(chosen, place)
        room = min((abs(times[other] - times[old]) / 2 for other in others), default=np.inf)
        nearest = min(abs(times[key] - times[old]) for key in keys)
        if nearest < room:
            assert new in keys
            assert abs(times[new] - times[old]) == nearest
        else:
            assert new == old


def test_key_frames_by_hand() -> None:
    # Ten seconds at 2 a second, four of them wanted (0, 3.0, 6.0, 9.5 s), key frames at 0, 4 and 8 s.
    times, keys = constant(20, 2), np.array([0, 8, 16])
    assert choose(SamplingSpec(frames=4), times).tolist() == [0, 6, 12, 19]
    assert choose(SamplingSpec(frames=4, key_frames=True), times, keys=keys).tolist() == [0, 8, 12, 16]
    # A part of the video takes no key frame from outside.
    assert choose(SamplingSpec(frames=2, key_frames=True), times, Span(3.0, 7.0), keys).tolist() == [8, 13]
    # Where it is not known which they are, nothing moves.
    assert choose(SamplingSpec(frames=4, key_frames=True), times).tolist() == [0, 6, 12, 19]
    with pytest.raises(ClipcapError, match="key_frames belongs to sampling uniform"):
        SamplingSpec("tail", 4, key_frames=True)
