"""Tiny clips whose every frame shows its own number, so that a test can tell which frames were kept.

A frame is a grid of 3 rows and 4 columns of blocks; black or white blocks spell its number in binary, the
lowest bit first. The number survives lossy codecs and resizing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipcap_video.video import decoder  # noqa: F401  (silences OpenCV before it is imported)

import cv2  # isort: skip

ROWS, COLUMNS = 3, 4
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "FFV1", ".webm": "VP80", ".mpg": "mpg2"}


def numbered_frame(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """The picture of frame `number` < 4096: uint8 [height, width, 3]."""
    bits = np.array([number >> bit & 1 for bit in range(ROWS * COLUMNS)], dtype=np.uint8).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    gray = np.where(bits[rows][:, columns] == 1, 220, 30).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def grid(images: Tensor) -> Tensor:
    """Mean brightness of each block: [n, 3, H, W] -> float32 [n, 12] from 0 to 255."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(images.float(), (ROWS, COLUMNS))
    return pooled.mean(dim=1).flatten(1)


def numbers_in(images: Tensor) -> list[int]:
    """The frame numbers that images [n, 3, H, W] show."""
    return numbers_of_grid(grid(images).numpy())


def numbers_of_grid(blocks: np.ndarray) -> list[int]:
    """The frame numbers that block brightnesses [n, 12] spell."""
    return ((blocks > 125) @ (1 << np.arange(ROWS * COLUMNS))).tolist()


def write_clip(
    path: Path,
    frames: int = 30,
    fps: float = 10,
    size: tuple[int, int] = (64, 48),
    codec: str | None = None,
    color: bool = True,
    first: int = 0,
) -> Path:
    """Writes frames numbered from `first`; the container follows the name, the codec too unless given."""
    fourcc = cv2.VideoWriter_fourcc(*(codec or CODECS[path.suffix]))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, size, color)
    assert writer.isOpened(), path
    for number in range(first, first + frames):
        frame = numbered_frame(number, *size)
        writer.write(frame if color else frame[:, :, 0])
    writer.release()
    return path


def write_gif(path: Path, milliseconds: Sequence[int], transparent: bool = False) -> Path:
    """A GIF whose frame i stays for `milliseconds[i]`."""
    from PIL import Image

    pictures = [Image.fromarray(numbered_frame(number)) for number in range(len(milliseconds))]
    if transparent:
        for picture in pictures:
            picture.putalpha(Image.fromarray(np.where(np.eye(48, 64) > 0, 0, 255).astype(np.uint8)))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=list(milliseconds), disposal=2)
    return path


# MP4 boxes: 4 bytes of size, 4 of name, content. OpenCV writes `moov` after the media data, so that changing
# its length moves nothing that it points to.

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def _rebuilt(boxes: bytes, name: bytes, content: bytes | None, edit: tuple[int, bytes] | None) -> bytes:
    out = b""
    while boxes:
        size, kind = struct.unpack(">I4s", boxes[:8])
        body, boxes = boxes[8:size], boxes[size:]
        if kind in _PARENTS:
            body = _rebuilt(body, name, content, edit)
        elif kind == name and content is not None:
            body = content
        elif kind == name and edit is not None:
            body = body[: edit[0]] + edit[1] + body[edit[0] + len(edit[1]) :]
        out += struct.pack(">I4s", len(body) + 8, kind) + body
    return out


def set_frame_durations(path: Path, ticks: Iterable[int]) -> None:
    """Gives frame i of an mp4 the duration ticks[i], in units of `time_scale`."""
    entries = [struct.pack(">II", 1, tick) for tick in ticks]
    table = struct.pack(">II", 0, len(entries)) + b"".join(entries)
    # The edit list would cut the video off at its former length; `free` boxes are skipped.
    data = _rebuilt(path.read_bytes().replace(b"edts", b"free"), b"stts", table, None)
    path.write_bytes(data)


def time_scale(path: Path) -> int:
    """Ticks a second of an mp4's only track."""
    data = path.read_bytes()
    at = data.index(b"mdhd") + 4
    return int(struct.unpack(">I", data[at + 12 : at + 16])[0])


def rotate_quarter(path: Path) -> None:
    """Marks an mp4 to be shown turned by 90 degrees clockwise, as phones do."""
    one, minus = struct.pack(">i", 1 << 16), struct.pack(">i", -(1 << 16))
    zero, last = struct.pack(">i", 0), struct.pack(">i", 1 << 30)
    matrix = zero + one + zero + minus + zero + zero + zero + zero + last
    path.write_bytes(_rebuilt(path.read_bytes(), b"tkhd", None, (40, matrix)))


def truncate(path: Path, share: float) -> Path:
    """Cuts a file off after `share` of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def index_first(path: Path) -> None:
    """Moves an mp4's index (`moov`) before the media data, as files made for the web have it."""
    data, boxes = path.read_bytes(), []
    while data:
        size = struct.unpack(">I", data[:4])[0]
        boxes.append((data[4:8], data[:size]))
        data = data[size:]
    index = next(box for kind, box in boxes if kind == b"moov")
    at = index.index(b"stco") + 4
    (count,) = struct.unpack(">I", index[at + 4 : at + 8])
    moved = [place + len(index) for place in struct.unpack(f">{count}I", index[at + 8 : at + 8 + 4 * count])]
    index = index[: at + 8] + struct.pack(f">{count}I", *moved) + index[at + 8 + 4 * count :]
    rest = [box for kind, box in boxes if kind not in (b"ftyp", b"moov")]
    path.write_bytes(boxes[0][1] + index + b"".join(rest))


def blank(path: Path, start: float, end: float) -> Path:
    """Overwrites the bytes between two shares of a file with zeros."""
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * start), int(len(data) * end)
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def write_shots(path: Path, lengths: Sequence[int], fps: float = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """A clip of shots with `lengths` frames each; a shot is one picture of colours, and no two shots look alike."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*CODECS[path.suffix]), fps, size)
    assert writer.isOpened(), path
    random = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        blocks = random.integers(0, 90, (4, 5, 3)) + 130 * (number % 2)
        picture = cv2.resize(blocks.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        for _ in range(length):
            writer.write(picture)
    writer.release()
    return path
