"""Signals become an event, once; then they do what they did before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from clipcap_video.stopping import Stopped, break_off_if_stopped, stopped_by_signals


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal: a shell has programs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_the_second_ctrl_c_interrupts(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with stopped_by_signals(threading.Event(), "soon") as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        assert capsys.readouterr().err == "\nsoon\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_elsewhere_than_in_the_main_thread_nothing_changes() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stopped_by_signals(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_long_step_breaks_off_where_a_signal_has_come() -> None:
    break_off_if_stopped()
    with stopped_by_signals(threading.Event()):
        break_off_if_stopped()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            break_off_if_stopped()
    break_off_if_stopped()
