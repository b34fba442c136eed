"""How much of a video is damaged: counted while it is decoded, and what the container promises beside it."""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

# The default of --max_damage: the largest share of damaged frames with which a video is used.
MAX_DAMAGE = 0.05


@dataclass(frozen=True)
class Damage:
    """What was found while `frames` frames were decoded, or would have been.

    corrupt: frames that were decoded with errors. missing: frames that never came. errors: packets that the decoder
    refused. truncated: whether the file ends early. whole: whether all of the video was looked at; otherwise only what
    the kept frames need was, and no damage was met.
    """

    frames: int = 0
    corrupt: int = 0
    missing: int = 0
    errors: int = 0
    truncated: bool = False
    whole: bool = True

    @property
    def damaged(self) -> int:
        return min(self.frames, self.corrupt + self.missing)

    @property
    def share(self) -> float:
        """Of the frames, those that are damaged."""
        return self.damaged / self.frames if self.frames else 0.0

    def __bool__(self) -> bool:
        return bool(self.damaged or self.errors or self.truncated)

    def __str__(self) -> str:
        parts = [f"{self.corrupt} corrupt"] * bool(self.corrupt) + [f"{self.missing} missing"] * bool(self.missing)
        parts += [f"{self.errors} decoder error{'' if self.errors == 1 else 's'}"] * bool(self.errors)
        counts = f"{self.damaged} of {self.frames} frames are damaged ({self.share:.1%}: {', '.join(parts)})"
        if not self.truncated:
            return counts
        return f"the file is truncated; {counts}" if parts else "the file is truncated"

    def to_json(self) -> dict[str, int | bool]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Damage | None:
        """What `to_json` gave; None for anything else."""
        known = {field.name for field in fields(cls)}
        if not isinstance(raw, dict) or not known & raw.keys():
            return None
        return cls(**{name: value for name, value in raw.items() if name in known})


# Files with the same first bytes as these are videos, whole or not: (offset, bytes).
MAGIC = (
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (4, b"skip"), (8, b"AVI "), (0, b"GIF8"),
    (0, b"\x1a\x45\xdf\xa3"), (0, b"\x00\x00\x01\xba"), (0, b"\x00\x00\x01\xb3"), (0, b"FLV\x01"),
    (0, b"\x30\x26\xb2\x75"), (0, b"OggS"),
)  # fmt: skip


def begins_as_video(path: Path) -> bool:
    """Whether a file's first bytes are those of a common container."""
    with path.open("rb") as stream:
        head = stream.read(16)
    return any(head[offset : offset + len(magic)] == magic for offset, magic in MAGIC)


def bytes_missing(path: Path) -> int | None:
    """How many bytes a container promises beyond the end of its file; 0 for a whole one, None where it says nothing.

    MP4 (its boxes), AVI (its RIFF chunk) and Matroska (its segment) say so in their first bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
        stream.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _end_of_boxes(stream, size)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            (length,) = struct.unpack("<I", head[4:8])
            # A recorder that was switched off never came to write the length; longer files go on in further chunks.
            end = length + 8 if 0 < length < 0xFFFFFFFF else None
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            end = _end_of_segment(head)
        else:
            return None
    return None if end is None else max(0, end - size)


def _end_of_boxes(stream: BinaryIO, size: int) -> int | None:
    """The end of an mp4's last outermost box."""
    place = 0
    while place + 8 <= size:
        stream.seek(place)
        length, _ = struct.unpack(">I4s", stream.read(8))
        if length == 1:  # the length is a 64-bit number behind the name
            wide = stream.read(8)
            length = struct.unpack(">Q", wide)[0] if len(wide) == 8 else 0
        if length < 8:  # 0: to the end of the file; others are nonsense, which the decoder will meet
            return None
        place += length
    return place


def _end_of_segment(head: bytes) -> int | None:
    """The end of a Matroska file's segment; None for a stream, whose length was never known."""
    length, start = _vint(head, 4)
    place = start + length
    if head[place : place + 4] != b"\x18\x53\x80\x67":
        return None
    length, start = _vint(head, place + 4)
    unknown = (1 << 7 * (start - place - 4)) - 1
    return None if length == unknown or start > len(head) else start + length


def _vint(data: bytes, place: int) -> tuple[int, int]:
    """A number of variable length at `place`, and the place behind it."""
    if place >= len(data) or data[place] == 0:
        return 0, place + 1
    width = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + width], "big") & ((1 << 7 * width) - 1)
    return value, place + width
