"""Ctrl-C and SIGTERM as an event that a loop looks at, where an exception would break off a step."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals(stop: threading.Event, say: str = "") -> Iterator[threading.Event]:
    """A block in which Ctrl-C, or SIGTERM, sets `stop`; the second Ctrl-C interrupts as usual. say: printed then.

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

    try:
        for number in before:
            signal.signal(number, note)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
