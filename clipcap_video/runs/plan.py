"""What a run would take, for `--dry_run`: counted where it can be, else measured on a few items."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

# Long enough for a steady rate, short enough to wait for.
BUDGET_SECONDS = 10.0
Item = TypeVar("Item")


@dataclass
class Plan:
    """None, or 0 for numbers of things, where a run has no such thing.

    videos: to be worked on; done: those that need no work any more. frames: about so many will be read, or are in
    the features. disk: bytes that will be written. memory: peak in bytes of the processor's memory, and device_memory
    of an accelerator's, as measured. seconds: of work, program start not counted. measured_on: in words.
    """

    command: str
    videos: int
    done: int = 0
    frames: int = 0
    captions: int = 0
    steps: int = 0
    warmup: int = 0
    disk: int = 0
    where: str = ""
    memory: int | None = None
    device_memory: int | None = None
    seconds: float = 0.0
    measured_on: str = ""
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        if not self.videos and not self.steps:
            return f"{self.command} has nothing to do: {self.done:,} videos are done already"
        rows = [("videos", f"{self.videos:,}" + (f", and {self.done:,} done already" if self.done else ""))]
        if self.captions:
            rows.append(("captions", f"{'about ' if self.command == 'caption' else ''}{self.captions:,}"))
        if self.frames:
            rows.append(("frames", f"{'about ' if self.command == 'extract' else ''}{self.frames:,}"))
        if self.steps:
            rows.append(("steps", f"{self.steps:,}, of which {self.warmup:,} warm up"))
        rows.append(("disk", f"about {in_bytes(self.disk)} in {self.where}"))
        if self.memory is not None:
            device = "" if not self.device_memory else f", and {in_bytes(self.device_memory)} on the accelerator"
            rows.append(("memory", f"about {in_bytes(self.memory)}{device}"))
        rows.append(("time", f"about {in_words(self.seconds)}, measured on {self.measured_on}"))
        lines = [f"{self.command} would take (nothing was written)"]
        lines += [f"  {name:<9} {value}" for name, value in rows]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def in_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            break
        count, unit = count / 1000, {"bytes": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{count:.0f} {unit}" if count >= 100 or unit == "bytes" else f"{count:.2g} {unit}"


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


@dataclass(frozen=True)
class Rate:
    """Measured: items in seconds."""

    items: int
    seconds: float

    def of(self, count: int) -> float:
        """Seconds that `count` items take."""
        return self.seconds / self.items * count if self.items else 0.0


def measure(items: Sequence[Item], do: Callable[[Sequence[Item]], object], first: int = 4, probe: int = 8) -> Rate:
    """How fast `do` works on `items`, for about BUDGET_SECONDS or until there are no more; drawn evenly.

    The `first` few pay for what is only done once, the `probe` tells how many there is time for, and the rate is that
    of the part that follows, as large as it can be: a run has its beginning and its end only once. Where there are too
    few items for that, the rate is that of what there was.
    """
    order = np.random.default_rng(0).permutation(len(items)).tolist()

    def timed(start: int, count: int) -> Rate:
        part = [items[index] for index in order[start : start + count]]
        started = time.perf_counter()
        if part:
            do(part)
        return Rate(len(part), time.perf_counter() - started)

    begun = timed(0, first)
    probed = timed(first, probe)
    if not probed.items:
        return begun
    left = BUDGET_SECONDS - probed.seconds
    main = timed(first + probe, max(0, int(left / max(probed.seconds, 1e-9) * probed.items)))
    if main.items >= probed.items:
        return main
    return Rate(probed.items + main.items, probed.seconds + main.seconds)


def peak_memory() -> int | None:
    """The most bytes that this process has held in memory so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    # Kilobytes everywhere but on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
