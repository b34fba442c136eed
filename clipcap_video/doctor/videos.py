"""Whether video files are whole: each is read to its end, several at a time.

Every frame is decoded, none is converted. What is not there is told from what the header promises; a container
that promises no frame count (Matroska, MPEG) gives its duration, from which a few frames more or less follow.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from clipcap_video.doctor.findings import Finding
from clipcap_video.errors import VideoError
from clipcap_video.video.decoder import Decoder

# Files with the same first bytes as these are videos, whole or not: (offset, bytes, container).
MAGIC = (
    (4, b"ftyp", "mp4"), (4, b"moov", "mp4"), (4, b"mdat", "mp4"), (4, b"wide", "mp4"), (4, b"free", "mp4"),
    (8, b"AVI ", "avi"), (0, b"\x1a\x45\xdf\xa3", "matroska"), (0, b"GIF8", "gif"), (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x00\x00\x01\xb3", "mpeg"), (0, b"FLV\x01", "flv"), (0, b"\x30\x26\xb2\x75", "asf"), (0, b"OggS", "ogg"),
)  # fmt: skip
COUNTED = ("mp4", "avi", "gif")  # their headers count frames; the others' tell a duration
# Frame times are rounded to whole milliseconds by some containers.
JITTER_SECONDS = 0.003


@dataclass(frozen=True)
class Limits:
    """Videos below either are too short. seconds: of duration; frames: that decode."""

    seconds: float = 0.5
    frames: int = 2


@dataclass(frozen=True)
class VideoFacts:
    """What reading a video to its end told.

    problem: (kind, sentence), or None where it is whole. variable: None, or the shortest and the longest distance
    between frames in seconds, where the distance is not always the same.
    """

    problem: tuple[str, str] | None
    frames: int = 0
    seconds: float = 0.0
    variable: tuple[float, float] | None = None


def examine_videos(
    paths: list[Path], limits: Limits, workers: int, progress: bool = True
) -> tuple[list[Finding], dict[str, float]]:
    """Findings about the files themselves, in their order, and what was looked at."""
    findings: list[Finding] = []
    frames, seconds = 0, 0.0
    readable: list[Path] = []
    bar = tqdm(total=len(paths), unit="video", disable=not (progress and sys.stderr.isatty()))
    stop = threading.Event()
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        with bar:
            for path, facts in zip(paths, pool.map(partial(read_facts, stop=stop), paths), strict=True):
                frames += facts.frames
                if facts.frames:
                    readable.append(path)
                seconds += facts.seconds
                findings += [
                    Finding(kind, path.stem, f"{path}: {message}", (str(path),))
                    for kind, message in problems(facts, limits)
                ]
                bar.update()
        # The pool also reads what may be equal: the same bytes have the same length.
        duplicates = find_duplicates(readable, pool)
    finally:
        # After Ctrl-C, videos that wait are given up, and those that are being read soon are.
        stop.set()
        pool.shutdown(cancel_futures=True)
    for same in duplicates:
        others = ", ".join(str(path) for path in same[1:])
        findings.append(
            Finding("duplicate", same[0].stem, f"{same[0]} has the same content as {others}", tuple(map(str, same)))
        )
    return findings, {"videos": len(paths), "frames": frames, "minutes of video": round(seconds / 60, 1)}


def problems(facts: VideoFacts, limits: Limits) -> Iterator[tuple[str, str]]:
    """(kind, sentence) for each thing that is wrong with a video."""
    if facts.problem is not None:
        yield facts.problem
        if facts.frames == 0:
            return
    if facts.frames < limits.frames:
        yield "too_short", f"{facts.frames} frame{'' if facts.frames == 1 else 's'}; the least is {limits.frames}"
    elif facts.seconds < limits.seconds:
        yield "too_short", f"{facts.seconds:.2f} s; the least is {limits.seconds:g} s"
    if facts.variable is not None:
        shortest, longest = facts.variable
        yield "variable_rate", f"frames are {shortest * 1000:.0f} to {longest * 1000:.0f} ms apart"


def read_facts(path: Path, stop: threading.Event | None = None) -> VideoFacts:
    """Reads one video to its end, or until `stop` is set. Never raises for what is wrong with the file."""
    try:
        size = path.stat().st_size
        if size == 0:
            return VideoFacts(("empty", "0 bytes"))
        container = container_of(path)
        missing_bytes = bytes_missing(path, container)
    except OSError as error:
        return VideoFacts(("unreadable", error.strerror or "cannot be opened"))
    times = array("d")
    try:
        with Decoder(path) as decoder:
            for time in decoder:
                times.append(time)
                if stop is not None and stop.is_set():
                    break
            promised, rate = decoder.promised, decoder.rate
    except VideoError:
        return VideoFacts(_unopened(container, missing_bytes))
    facts = judge(np.asarray(times), promised, rate, exact=container in COUNTED)
    if container == "avi" and missing_bytes == 0 and facts.problem is not None:
        # An AVI's times are counts of frames, which close up over a gap.
        return replace(facts, problem=("corrupt", f"{promised - facts.frames} of {promised} frames do not decode"))
    if missing_bytes and (facts.problem is None or facts.problem[0] != "truncated"):
        return VideoFacts(("truncated", f"the last {missing_bytes:,} bytes are missing"), facts.frames, facts.seconds)
    return facts


def _unopened(container: str | None, missing_bytes: int | None) -> tuple[str, str]:
    if container is None:
        return "not_video", "its first bytes are not those of a video"
    if missing_bytes:
        return "truncated", f"cannot be opened: it ends {missing_bytes:,} bytes early"
    return "corrupt", f"begins as {container} does, but cannot be opened"


def judge(times: np.ndarray, promised: int, rate: float, exact: bool) -> VideoFacts:
    """What the times of the frames that decode [n], seconds, say beside a header's count and rate.

    exact: the header counts frames; otherwise its count follows from a duration that sound may have lengthened.
    """
    count = len(times)
    if count == 0:
        return VideoFacts(("corrupt", "not one frame decodes"))
    seconds = float(times[-1]) + 1 / rate
    missing = promised - count
    if missing > (1 + 0.01 * promised if exact else 1 + 0.1 * promised):
        end = promised / rate
        # Missing frames lie after the last one that decodes, or between those that do.
        if end - seconds >= missing / rate / 2:
            said = f"the last {end - seconds:.1f} of {end:.1f} s do not decode ({count} of {promised} frames do)"
            return VideoFacts(("truncated", said), count, seconds)
        return VideoFacts(("corrupt", f"{missing} of {promised} frames do not decode"), count, seconds)
    return VideoFacts(None, count, seconds, varying_distance(times))


def varying_distance(times: np.ndarray) -> tuple[float, float] | None:
    """The shortest and longest distance between neighbours of `times` [n], seconds, unless nearly all are the same.

    One in fifty may differ: encoders drop a frame now and then, and the first or last often has a length of its own.
    """
    if len(times) < 3:
        return None
    distances = np.diff(times)
    usual = float(np.median(distances))
    differs = np.abs(distances - usual) > max(JITTER_SECONDS, 0.1 * usual)
    if differs.mean() <= 0.02:
        return None
    return float(distances.min()), float(distances.max())


def container_of(path: Path) -> str | None:
    """The kind of container by the file's first bytes; None where they are not those of a video."""
    with path.open("rb") as stream:
        head = stream.read(16)
    return next((kind for offset, magic, kind in MAGIC if head[offset : offset + len(magic)] == magic), None)


def bytes_missing(path: Path, container: str | None) -> int | None:
    """How many bytes a container promises beyond the end of its file; 0 for a whole one, None where it says nothing."""
    if container not in ("mp4", "avi"):
        return None
    size = path.stat().st_size
    with path.open("rb") as stream:
        end = _end_of_riff(stream) if container == "avi" else _end_of_boxes(stream, size)
    return None if end is None else max(0, end - size)


def _end_of_riff(stream: BinaryIO) -> int | None:
    head = stream.read(8)
    (length,) = struct.unpack("<I", head[4:])
    # A recorder that was switched off never came to write the length.
    return length + 8 if 0 < length < 0xFFFFFFFF else None


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


def find_duplicates(paths: list[Path], pool: ThreadPoolExecutor) -> list[list[Path]]:
    """Groups of files with the same bytes, in the order of their first.

    Only files of equal length are read. A file that is named twice, or linked to, is one file.
    """
    by_size: dict[int, list[Path]] = {}
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            by_size.setdefault(found.st_size, []).append(path)
    suspects = [path for same in by_size.values() if len(same) > 1 for path in same]
    by_digest: dict[str, list[Path]] = {}
    for path, digest in zip(suspects, pool.map(_digest, suspects), strict=True):
        if digest is not None:
            by_digest.setdefault(digest, []).append(path)
    order = {path: place for place, path in enumerate(paths)}
    return sorted((same for same in by_digest.values() if len(same) > 1), key=lambda same: order[same[0]])


def _digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
