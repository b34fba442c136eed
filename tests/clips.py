"""Tiny clips whose every frame shows its own number, so that a test can tell which frames were kept.

A frame is a grid of 3 rows and 4 columns of blocks; black or white blocks spell its number in binary, the
lowest bit first. The number survives lossy codecs and resizing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

ROWS, COLUMNS = 3, 4
CODECS = {".mp4": "mpeg4", ".mov": "mpeg4", ".avi": "mjpeg", ".mkv": "ffv1", ".webm": "libvpx", ".mpg": "mpeg2video"}
PIXELS = {"mjpeg": "yuvj420p"}
QUICK = {"libvpx": {"deadline": "realtime", "cpu-used": "8"}}


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


def ffmpeg(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    """Runs the ffmpeg that imageio-ffmpeg brings; what it writes to standard output."""
    program = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg (extra dev) is not installed")
    command = [program.get_ffmpeg_exe(), "-y", "-v", "error", *map(os.fspath, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def encode(
    path: Path,
    pictures: Iterable[np.ndarray],
    fps: float,
    codec: str | None = None,
    pixels: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of `pictures`, uint8 RGB [H, W, 3] or gray [H, W]; the container follows the name."""
    codec = codec or CODECS[path.suffix]
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or QUICK.get(codec, {}))
        stream.bit_rate = 1_000_000
        for picture in pictures:
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixels or PIXELS.get(codec, "yuv420p")
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.ndim == 3 else "gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_clip(
    path: Path,
    frames: int = 30,
    fps: float = 10,
    size: tuple[int, int] = (64, 48),
    codec: str | None = None,
    first: int = 0,
) -> Path:
    """Writes frames numbered from `first`; the container follows the name, the codec too unless given."""
    if path.suffix == ".mpg":
        fps = 25 if fps == 10 else fps
    return encode(path, (numbered_frame(number, *size) for number in range(first, first + frames)), fps, codec)


def write_gif(path: Path, milliseconds: Sequence[int], transparent: bool = False) -> Path:
    """A GIF whose frame i stays for `milliseconds[i]`."""
    from PIL import Image

    pictures = [Image.fromarray(numbered_frame(number)) for number in range(len(milliseconds))]
    if transparent:
        for picture in pictures:
            picture.putalpha(Image.fromarray(np.where(np.eye(48, 64) > 0, 0, 255).astype(np.uint8)))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=list(milliseconds), disposal=2)
    return path


def set_frame_durations(path: Path, ticks: Iterable[int]) -> None:
    """Gives frame i of an mp4 without B-frames the duration ticks[i], in units of `time_scale`."""
    durations = list(ticks)
    starts = np.cumsum([0, *durations]).tolist()
    copy = path.with_stem(f"{path.stem}_timed")
    with av.open(str(path)) as source:
        video = source.streams.video[0]
        scale = video.time_base.denominator
        with av.open(str(copy), "w", options={"video_track_timescale": str(scale)}) as target:
            stream = target.add_stream_from_template(video)
            packets = (packet for packet in source.demux(video) if packet.size)
            for packet, start, duration in zip(packets, starts, durations, strict=False):
                packet.stream = stream
                packet.pts = packet.dts = start
                packet.duration = duration
                target.mux(packet)
    copy.replace(path)


def time_scale(path: Path) -> int:
    """Ticks a second of an mp4's only track."""
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    assert base is not None
    return int(base.denominator)


def copied(path: Path, *options: str | Path, before: Sequence[str] = ()) -> None:
    """Writes a file anew with its packets as they are. before: options of ffmpeg for reading it."""
    copy = path.with_stem(f"{path.stem}_copy")
    ffmpeg(*before, "-i", path, "-c", "copy", *options, copy)
    copy.replace(path)


def rotate_quarter(path: Path) -> None:
    """Marks an mp4 to be shown turned by 90 degrees clockwise, as phones do."""
    copied(path, before=["-display_rotation", "-90"])


def index_first(path: Path) -> None:
    """Moves an mp4's index (`moov`) before the media data, as files made for the web have it."""
    copied(path, "-movflags", "+faststart")


def truncate(path: Path, share: float) -> Path:
    """Cuts a file off after `share` of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def blank(path: Path, start: float, end: float) -> Path:
    """Overwrites the bytes between two shares of a file with zeros."""
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * start), int(len(data) * end)
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def write_shots(path: Path, lengths: Sequence[int], fps: float = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """A clip of shots with `lengths` frames each; a shot is one picture of colours, and no two shots look alike."""
    random = np.random.default_rng(0)
    pictures = []
    for number, length in enumerate(lengths):
        blocks = random.integers(0, 90, (4, 5, 3)) + 130 * (number % 2)
        picture = cv2.resize(blocks.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        pictures += [picture] * length
    return encode(path, pictures, fps)
