"""Packets: the times of their frames, their order, and what a frame is decoded from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcap_video.video.packets import FrameTimes, PacketIndex, Unseekable, in_order, sorted_stamps


@st.composite
def packet_orders(draw):
    """Stamps in the order of a file with B-frames, key frames among them, and some frames to reach."""
    groups = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    stamps, keys = [], []
    for length in groups:
        first = len(stamps)
        stamps += [first, *draw(st.permutations(range(first + 1, first + length)))]
        keys += [True] + [False] * (length - 1)
    count = len(stamps)
    return np.array(stamps) * 3, np.array(keys), sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))


@given(packet_orders())
def test_needed_packets_lie_between_a_frame_and_its_key_frame(case):
    stamps, keys, frames = case
    expected = set()
    for frame in frames:
        place = stamps.tolist().index(3 * frame)
        first = place
        while not keys[first]:
            first -= 1
        expected |= set(range(first, place + 1))
    index = PacketIndex(stamps, keys, 0.5)
    assert set(np.flatnonzero(index.needed(frames)).tolist()) == expected
    np.testing.assert_array_equal(index.seconds, np.arange(len(stamps)) * 1.5)


@pytest.mark.parametrize(
    ("stamps", "keys"), [([0, 1, 1], [1, 0, 0]), ([0, 1, 2], [0, 1, 0]), ([], [])], ids=["twice", "no key", "none"]
)
def test_senseless_indexes_are_refused(stamps, keys):
    with pytest.raises(Unseekable):
        PacketIndex(np.array(stamps, dtype=np.int64), np.array(keys, dtype=bool), 0.1)


def times_of(stamps: list[int | None], restarts: bool = False) -> list[float]:
    times = FrameTimes(0.1, 10.0, restarts)  # stamps of a tenth of a second, ten frames a second
    return [round(times(stamp), 3) for stamp in stamps]


def test_times_count_from_the_first_frame_and_never_run_back() -> None:
    assert times_of([50, 51, 55, 53, 56]) == [0, 0.1, 0.5, 0.5, 0.6]


def test_frames_without_a_stamp_come_at_the_rate() -> None:
    assert times_of([None, None, 70, None, 75]) == [0, 0.1, 0.2, 0.3, 0.7]


def test_a_clock_that_restarts_goes_on_where_it_was() -> None:
    assert times_of([100, 101, 0, 1]) == [0, 0.1, 0.2, 0.3]
    # A long step ahead is a pause, but where clocks may restart.
    assert times_of([0, 1, 500, 501]) == [0, 0.1, 50, 50.1]
    assert times_of([0, 1, 500, 501], restarts=True) == [0, 0.1, 0.2, 0.3]


@given(st.permutations(range(12)))
def test_stamps_of_decoding_are_dealt_out_in_the_order_of_showing(stamps):
    found = list(sorted_stamps(list(enumerate(stamps))))
    assert found == list(zip(range(12), range(12), strict=True))


def test_frames_without_a_stamp_keep_having_none():
    assert list(sorted_stamps([("a", 4), ("b", None), ("c", 2)])) == [("a", 2), ("b", None), ("c", 4)]


def test_frames_behind_damage_are_put_in_order_but_not_across_a_restart():
    shown = [("a", 0), ("c", 2), ("b", 1), ("x", 900), ("z", 902), ("y", 901), ("n", None), ("m", 903)]
    assert "".join(frame for frame, _ in in_order(shown, most=100)) == "abcxyznm"
