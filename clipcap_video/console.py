"""How much a command says beside its results: what it is doing, more of it with -v, nothing of it with -q."""

from __future__ import annotations

import sys
import time

QUIET, USUAL, VERBOSE = -1, 0, 1

_began = time.perf_counter()
_level = USUAL


def set_level(level: int) -> None:
    """For the rest of the process: QUIET, USUAL or VERBOSE."""
    global _level
    _level = level


def is_verbose() -> bool:
    return _level >= VERBOSE


def say(line: str) -> None:
    """A line about the run, on stderr."""
    if _level >= USUAL:
        print(line, file=sys.stderr, flush=True)


def detail(line: str) -> None:
    """A line that only -v shows, with the seconds since the program began."""
    if is_verbose():
        print(f"[{time.perf_counter() - _began:7.2f} s] {line}", file=sys.stderr, flush=True)


def hides_bars(wanted: bool = True) -> bool:
    """Whether progress bars stay away: unasked for, with -q, or where nobody looks at stderr."""
    return not (wanted and _level >= USUAL and sys.stderr.isatty())
