"""The errors that a user can fix; their message is one sentence: what, where, what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

# What the system says where a disk, a quota or the largest length of a file is reached.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ClipcapError(Exception):
    """Wrong input or options. The command line prints the message alone and exits with `status`."""

    status = 1


class VideoError(ClipcapError):
    """One video cannot be read. A run over many videos records it and continues. kind: as the doctor calls it."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class NoTextSide(ClipcapError):
    """An image encoder was asked for texts, which it cannot read."""


def told_of(error: OSError) -> ClipcapError:
    """What the system says of a file or a disk, as a sentence for who can do something about it."""
    where = "a file" if error.filename is None else error.filename
    if error.errno in FULL:
        return ClipcapError(
            f"no room left to write {where} ({error.strerror}); free some, and give the same command again: what is "
            "finished is kept"
        )
    reason = error.strerror or first_line(error)
    return ClipcapError(f"cannot use {where} ({reason}); check the path and its rights")


@contextmanager
def parsing(where: str, remedy: str) -> Iterator[None]:
    """The boundary of one entry of a file: whatever is thrown at it becomes one sentence. where: it stands."""
    try:
        yield
    except ClipcapError:
        raise
    except Exception as error:
        reason = f"lacks the field {error}" if isinstance(error, KeyError) else f"is malformed ({first_line(error)})"
        raise ClipcapError(f"{where} {reason}; {remedy}") from None


def first_line(error: BaseException) -> str:
    """What an exception says, for a sentence about it: its first line, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
