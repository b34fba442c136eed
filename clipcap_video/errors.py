"""The errors that a user can fix; their message is one sentence: what, where, what to do."""

from __future__ import annotations


class ClipcapError(Exception):
    """Wrong input or options. The command line prints the message alone and exits with status 1."""


class VideoError(ClipcapError):
    """One video cannot be read. A run over many videos records it and continues. kind: as the doctor calls it."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class NoTextSide(ClipcapError):
    """An image encoder was asked for texts, which it cannot read."""


def first_line(error: BaseException) -> str:
    """What an exception says, for a sentence about it: its first line, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
