"""Ctrl-C and SIGTERM as an event that a loop looks at, where an exception would break off a step."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """A long step was broken off, for a signal had come. What it was to give is not there."""


_stops: list[threading.Event] = []  # those of the blocks that are open


def break_off_if_stopped() -> None:
    """Raises Stopped where a signal has come: for the inner loops of a step that may take minutes."""
    if any(stop.is_set() for stop in _stops):
        raise Stopped


def terminate_as_interrupted() -> None:
    """From here on SIGTERM ends the program as Ctrl-C does, its files in order."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def stopped_by_signals(stop: threading.Event, say: str = "", breaks: bool = True) -> Iterator[threading.Event]:
    """A block in which Ctrl-C, or SIGTERM, sets `stop`; the second Ctrl-C interrupts as usual.

    say: printed then. breaks: long steps break off, as `break_off_if_stopped` says.
    Outside the main thread signals stay with whoever started it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        stop.set()
        if say:
            print(f"\n{say}", file=sys.stderr)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    if breaks:
        _stops.append(stop)
    try:
        for number in before:
            signal.signal(number, note)
        yield stop
    finally:
        if breaks:
            _stops.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)
