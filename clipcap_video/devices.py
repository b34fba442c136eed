"""Where to compute and in which precision. No other module names a device."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import torch

from clipcap_video.errors import ClipcapError

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "fp32", "bf16")
# Of malloc.h: M_MMAP_THRESHOLD (the largest that it takes), M_TRIM_THRESHOLD and M_TOP_PAD (that of a thread's heap).
MALLOC_OPTIONS = {-3: 32 << 20, -1: 512 << 20, -2: 64 << 20}
ARENAS = -8  # M_ARENA_MAX
# Lanes for each core where weights are small: 7 % slower on an idle machine, up to half as fast again on a busy one.
LANES_A_CORE = 2
T = TypeVar("T")


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes CUDA, then MPS, then the CPU. `cuda:1` works too.

    Raises ClipcapError when the device is unknown or absent.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ClipcapError(f"unknown device {name!r}; use one of {', '.join(DEVICES)}") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in present:
        raise ClipcapError(f"unknown device {name!r}; use one of {', '.join(DEVICES)}")
    if not present[device.type]:
        raise ClipcapError(f"device {name!r} is not present on this machine; use --device auto")
    if device.type == "cpu":
        keep_freed_memory()
    return device


@cache
def keep_freed_memory() -> None:
    """Keeps memory that tensors on the CPU are done with for those that follow.

    The GNU C library gives it back to the system, which then clears every page anew: up to two fifths of the time of an
    encoder on a core. At most half a gigabyte is kept, and 64 MB a thread, for as many threads as cores: others share
    with these. What the environment says stays.
    """
    if sys.platform == "linux" and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        with suppress(AttributeError, OSError):  # another C library
            for name, size in {**MALLOC_OPTIONS, ARENAS: max(2, cores())}.items():
                ctypes.CDLL(None).mallopt(name, size)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run on dedicated instructions, rather than being emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        cpuinfo = Path("/proc/cpuinfo")
        flags = cpuinfo.read_text() if cpuinfo.exists() else ""
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def may_use_gpu(name: str) -> bool:
    """Whether the device called `name` is an NVIDIA GPU where there is one."""
    return name == "auto" or name.startswith("cuda")


def pick_precision(device: torch.device, name: str = "auto") -> str:
    """`fp32` or `bf16`; `auto` takes bf16 where the device is fast at it."""
    if name not in PRECISIONS:
        raise ClipcapError(f"unknown precision {name!r}; use one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bf16" if has_fast_bf16(device) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which matrix products run in `precision` (weights stay as they are)."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def dtype_of(precision: str) -> torch.dtype:
    """What weights are kept in that only ever take part in products of `precision`."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def cores() -> int:
    """How many cores this process may use."""
    # Not on every system, and the one that knows of limits.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread_each() -> None:
    """Lets each thread that starts from here on, and this one, run its tensor operations alone.

    Threads of one operation wait for each other; where several operations run side by side on the same cores, that
    wait costs up to nine tenths of the speed.
    """
    # A thread takes over the number of its process when it first asks, which would undo what is set before.
    torch.get_num_threads()
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """A block of small tensor operations: one thread is nearly as fast, and is not slowed down by other programs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _lanes(count: int) -> ThreadPoolExecutor:
    """Threads that each compute on one core; made once, and idle when there is nothing to do."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "lane", initializer=one_thread_each)
    # All threads have to have started before the setting of this one is put back.
    barrier = Barrier(count)
    list(pool.map(lambda _: barrier.wait(), range(count)))
    torch.set_num_threads(before)
    return pool


def in_lanes(tasks: Sequence[Callable[[], T]], a_core: int = 1) -> list[Future[T]]:
    """Runs tasks side by side, `a_core` of them a core, each with one thread for its tensor operations.

    Whole pieces of work side by side are faster on a CPU than each operation spread over all cores: nobody waits,
    neither for its like nor for what else the machine does. Inference mode and autocast are each task's own business.
    """
    pool = _lanes(a_core * torch.get_num_threads())
    return [pool.submit(task) for task in tasks]


def in_pieces(
    work: Callable[[slice], list[T]], count: int, most: int, device: torch.device, spread_one: bool = False
) -> list[T]:
    """What `work` makes of `count` things: of pieces of them side by side on a CPU, of all at once elsewhere.

    most: in a piece. work: is given a slice of 0 to count, and gives as many results. spread_one: one thing alone is
    large enough to spread its operations over all cores; a core then has one piece at a time, not LANES_A_CORE.
    """
    lanes = torch.get_num_threads() if device.type == "cpu" else 1
    if lanes < 2 or (count < 2 and spread_one):
        return work(slice(0, count))
    size = min(most, -(-count // lanes))
    tasks = [partial(work, slice(start, start + size)) for start in range(0, count, size)]
    pieces = in_lanes(tasks, 1 if spread_one else LANES_A_CORE)
    return [result for piece in pieces for result in piece.result()]


def make_accelerator(
    device: torch.device, precision: str, tracker: str | None = None, tracking: Path | None = None
) -> Any:
    """An `accelerate.Accelerator` on `device`; several processes are those that `accelerate launch` started.

    tracker: where `log` sends its numbers; tracking: the folder for trackers that need one.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration

    # One process may train several models; each brings its own device and precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with=tracker,
        project_config=ProjectConfiguration(logging_dir=None if tracking is None else str(tracking)),
    )


def peak_device_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held on an accelerator so far; None where it cannot be told."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
