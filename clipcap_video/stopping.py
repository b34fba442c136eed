"""Ctrl-C and SIGTERM as an event that a loop looks at, where an exception would break off a step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """A long step was broken off, for a signal had come. What it was to give is not there."""


_stops: list[threading.Event] = []  # those of the blocks that are open


def break_off_if_stopped() -> None:
    """Raises Stopped where a signal has come: for the inner loops of a step that may take minutes."""
    if any(stop.is_set() for stop in _stops):
        raise Stopped


INTERRUPTED = 130  # exit status
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_signals() -> None:
    """From here on Ctrl-C and SIGTERM end the program in one sentence: for its imports, which lose an exception, or
    make another one of it."""
    _handle(_end)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """A block that Ctrl-C, or SIGTERM, interrupts, its files in order; while it imports, they end the program."""
    before = _handle(_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Sets a handler, but of signals that the program was started to ignore; returns those of before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: found for number, found in before.items() if found is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def _end(number: int, frame: FrameType | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # one that is written to just now
            stream.flush()
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    caller = frame
    while caller is not None:
        if caller.f_code.co_filename.startswith("<frozen importlib"):
            _end(number, frame)
        caller = caller.f_back
    raise KeyboardInterrupt


@contextmanager
def stopped_by_signals(stop: threading.Event, say: str = "", breaks: bool = True) -> Iterator[threading.Event]:
    """A block in which Ctrl-C, or SIGTERM, sets `stop`; the second Ctrl-C interrupts as usual.

    say: printed then. breaks: long steps break off, as `break_off_if_stopped` says.
    Outside the main thread signals stay with whoever started it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

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
