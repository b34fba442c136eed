"""Files that appear under their names only when they are whole, and the order of names with numbers in them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `file` when the block ends without an error, and else is gone.

    A process that is killed leaves `.NAME.PID.partial`, and `file` as it was.
    """
    name = f".{file.name}.{os.getpid()}.partial"
    if not fits_a_name(name):
        name = f".{hashlib.sha256(os.fsencode(file.name)).hexdigest()}.{os.getpid()}.partial"
    partial = file.with_name(name)
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def fits_a_name(name: str) -> bool:
    """Whether file systems take a file's name, which is at most 255 bytes long."""
    return len(os.fsencode(name)) <= 255


def natural_key(video_id: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts video2 before video10."""
    # re.split with a group puts the digits at the odd places.
    parts = re.split(r"([0-9]+)", video_id)
    return tuple((0, int(part)) if place % 2 else (1, part) for place, part in enumerate(parts))


def sorted_ids(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=natural_key)
