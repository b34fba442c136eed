"""What the benchmarks share: processes of their own and beside them, the speed of a matrix product, one table."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A benchmark runs from any folder, installed package or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

# On a machine that others use too, wall time says little: CORE_SECONDS=1 counts the time of all cores instead. With
# OMP_NUM_THREADS=1 it is what one core would need on its own.
CORE_SECONDS = bool(os.environ.get("CORE_SECONDS"))
clock = time.process_time if CORE_SECONDS else time.perf_counter


@dataclass(frozen=True)
class Measured:
    """What a function returned, its wall seconds inside its process, and that process's peak memory in bytes."""

    value: Any
    seconds: float
    memory: int


def apart(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Runs `function` in a fresh process, so that neither memory nor caches of one run reach the next."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        return pool.submit(_measured, function, arguments).result()


def _end_with(parent: int) -> None:
    """Ends this process when its parent has gone, as after a time limit."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measured(function: Callable[..., Any], arguments: Sequence[Any]) -> Measured:
    start = clock()
    value = function(*arguments)
    seconds = clock() - start
    return Measured(value, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def best_seconds(function: Callable[[], Any], runs: int = 3) -> float:
    """The shortest of several runs, after one that does not count."""
    function()
    times = []
    for _ in range(runs):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times)


def product_rate(precision: str, size: int = 2048) -> float:
    """FLOP/s of a product of two square matrices: what the hardware reaches."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: a @ b, 8)


@dataclass(frozen=True)
class Row:
    """One line: all four numbers are of the same unit; floor is what arithmetic allows at best."""

    what: str
    unit: str
    reference: float | None
    ours: float
    floor: float | None
    note: str = ""
    more_is_better: bool = True

    def cells(self) -> list[str]:
        ratio = None if self.reference is None else self.ours / self.reference
        share = None if self.floor is None else self.ours / self.floor
        if not self.more_is_better and ratio is not None:
            ratio = 1 / ratio
        numbers = (self.reference, self.ours, ratio, self.floor, share)
        return [self.what, self.unit, *("-" if number is None else f"{number:.3g}" for number in numbers), self.note]


HEADER = ["what", "unit", "reference", "ours", "ratio", "floor", "ours/floor", "note"]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes beside this one that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(
    measure: Callable[[argparse.Namespace], Sequence[Row]],
    parser: argparse.ArgumentParser,
    beside: Sequence[int] = (0, 1),
) -> None:
    """The main of a benchmark: what `measure` finds alone on the machine, and beside busy processes."""
    parser.add_argument(
        "--busy", type=int, nargs="+", default=list(beside), help="how many processes keep a core busy meanwhile"
    )
    options = parser.parse_args()
    idle: dict[str, float] = {}
    for count in options.busy:
        with busy(count):
            rows = measure(options)
        print_table(rows, count, idle)
        if count == 0:
            idle = {row.what: row.ours for row in rows}


def print_table(rows: Sequence[Row], beside: int, idle: Mapping[str, float]) -> None:
    """Markdown, so that it can be pasted into docs/speed.md. idle: what was measured alone, by line."""
    time_of = "core-seconds" if CORE_SECONDS else "wall time"
    alone = f"beside {beside} busy" if beside else "idle"
    print(f"\n{alone}, {time_of}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| " + " | ".join([*HEADER, "slower than idle"]) + " |\n" + "| --- " * (len(HEADER) + 1) + "|")
    for row in rows:
        before = idle.get(row.what)
        slower = None if before is None else before / row.ours if row.more_is_better else row.ours / before
        print("| " + " | ".join([*row.cells(), "-" if slower is None else f"{slower:.2f}"]) + " |", flush=True)


def quiet_libraries() -> None:
    """Keeps notes of the libraries out of the table."""
    import warnings

    from clipcap_video.models.language_model import quiet_transformers

    warnings.filterwarnings("ignore")
    quiet_transformers()
