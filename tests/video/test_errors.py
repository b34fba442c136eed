"""What an error of a codec means for the frames behind it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from clipcap_video.video.errors import DAMAGED, DOUBTFUL, SOUND, TROUBLE_FRAMES, Count


def states(frames: str, bad: set[int] = frozenset(), suspects: set[int] = frozenset()) -> tuple[Count, list[int]]:  # type: ignore[assignment]
    """Of frames with the stamps 0, 1, ...: k a key frame, x one that is marked as corrupt."""
    count, found = Count(), []
    for stamp, kind in enumerate(frames):
        frame = SimpleNamespace(is_corrupt=kind == "x", key_frame=kind == "k", pts=stamp)
        found.append(count.state(frame, bad, suspects))
        count.times.append(float(stamp))
    return count, found


def test_frames_behind_a_damaged_one_are_doubtful_up_to_the_next_key_frame() -> None:
    count, found = states("k.x..k.")
    assert found == [SOUND, SOUND, DAMAGED, DOUBTFUL, DOUBTFUL, SOUND, SOUND]
    assert count.corrupt == 1


def test_errors_of_packets_and_gaps_before_frames_count_too() -> None:
    assert states("k....", bad={2})[1] == [SOUND, SOUND, DAMAGED, DOUBTFUL, DOUBTFUL]
    assert states("k....", suspects={3})[1] == [SOUND, SOUND, SOUND, DOUBTFUL, DOUBTFUL]
    # A key frame that is itself damaged ends nothing.
    assert states("k.xk.", bad={3})[1] == [SOUND, SOUND, DAMAGED, DAMAGED, DOUBTFUL]


def gaps(times: list[float], troubled_at: int) -> int:
    count = Count()
    for place in range(len(times)):
        frame = SimpleNamespace(is_corrupt=place == troubled_at, key_frame=place == 0, pts=place)
        count.state(frame, set(), set())
        count.times.append(times[place])
    return count.missing_in_gaps(np.asarray(times))


def test_frames_missing_from_a_long_step_near_trouble() -> None:
    times = [0, 1, 2, 6, 7, 8, 9]
    assert gaps(times, troubled_at=3) == 3
    assert gaps(times, troubled_at=len(times)) == 0  # a pause where nothing went wrong
    assert gaps([0, 1, 2, 3, 4, 5], troubled_at=2) == 0
    far = [*map(float, range(TROUBLE_FRAMES + 5)), 100.0]
    assert gaps(far, troubled_at=1) == 0


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 9.0], [1.0, 1.0, 1.0]])
def test_of_too_few_times_nothing_is_known(times: list[float]) -> None:
    assert gaps(times, troubled_at=0) == 0
