"""Whether video files are whole: each is decoded to its end by the decoder that extraction uses, several at a time.

No frame is made a picture. Damage is counted as extraction counts it, so that both find the same.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clipcap_video import console
from clipcap_video.doctor.before import Kinds
from clipcap_video.doctor.findings import Finding
from clipcap_video.errors import VideoError
from clipcap_video.video.damage import MAX_DAMAGE, Damage
from clipcap_video.video.decoder import Decoder
from clipcap_video.video.files import id_of, shown

# Frame times are rounded to whole milliseconds by some containers.
JITTER_SECONDS = 0.003


@dataclass(frozen=True)
class Limits:
    """Videos below either are too short. seconds: of duration; frames: that decode. damage: the largest share of
    damaged frames with which a run uses a video."""

    seconds: float = 0.5
    frames: int = 2
    damage: float = MAX_DAMAGE


@dataclass(frozen=True)
class VideoFacts:
    """What reading a video to its end told.

    problem: (kind, sentence) of a video that cannot be read, or None. damage: of one that can. picture: whether it is
    one, a video of one frame. before: kinds of which it is that an earlier decoder read wrongly. variable: None, or
    the shortest and the longest distance between frames in seconds, where the distance is not always the same.
    """

    problem: tuple[str, str] | None
    frames: int = 0
    seconds: float = 0.0
    variable: tuple[float, float] | None = None
    damage: Damage = Damage()
    picture: bool = False
    before: tuple[str, ...] = ()


def examine_videos(
    paths: list[Path], limits: Limits, workers: int, progress: bool = True
) -> tuple[list[Finding], dict[str, float], dict[Path, tuple[str, ...]]]:
    """Findings about the files themselves, in their order; what was looked at; and, of files of kinds that an earlier
    decoder read wrongly, these kinds."""
    findings: list[Finding] = []
    before: dict[Path, tuple[str, ...]] = {}
    frames, seconds = 0, 0.0
    readable: list[Path] = []
    bar = tqdm(total=len(paths), unit="video", disable=console.hides_bars(progress))
    stop = threading.Event()
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        with bar:
            for path, facts in zip(paths, pool.map(partial(read_facts, stop=stop), paths), strict=True):
                frames += facts.frames
                before[path] = facts.before
                if facts.frames:
                    readable.append(path)
                seconds += facts.seconds
                findings += [
                    Finding(kind, id_of(path), f"{shown(path)}: {message}", (shown(path),))
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
        others = ", ".join(shown(path) for path in same[1:])
        said = f"{shown(same[0])} has the same content as {others}"
        findings.append(Finding("duplicate", id_of(same[0]), said, tuple(map(shown, same))))
    return findings, {"videos": len(paths), "frames": frames, "minutes of video": round(seconds / 60, 1)}, before


def problems(facts: VideoFacts, limits: Limits) -> Iterator[tuple[str, str]]:
    """(kind, sentence) for each thing that is wrong with a video."""
    if facts.problem is not None:
        yield facts.problem
        return
    if facts.damage:
        small = facts.damage.share <= limits.damage
        yield "truncated" if facts.damage.truncated else "damaged" if small else "corrupt", str(facts.damage)
    if facts.picture:
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
    times = array("d")
    try:
        with Decoder(path, threads=1) as decoder:
            kinds = Kinds(decoder)
            for frame in decoder:
                times.append(frame.time)
                kinds.look(frame)
                if stop is not None and stop.is_set():
                    break
            damage, rate, picture = decoder.damage, decoder.rate, decoder.source.is_picture
            before = kinds.all(np.asarray(times))
    except VideoError as error:
        return VideoFacts((error.kind, str(error).removeprefix(f"{shown(path)} ")))
    if not times:
        return VideoFacts(("corrupt", f"not one frame decodes ({damage.errors} decoder errors)"))
    shown_times = np.asarray(times)
    # Steps over frames that are missing say nothing about the rate.
    variable = None if damage else varying_distance(shown_times)
    return VideoFacts(None, len(times), float(times[-1]) + 1 / rate, variable, damage, picture, before)


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


def find_duplicates(paths: list[Path], pool: ThreadPoolExecutor) -> list[list[Path]]:
    """Groups of files with the same bytes, in the order of their first.

    Only files of equal length are read. A file that is named twice, or linked to, is one file.
    """
    by_size: dict[int, list[Path]] = {}
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            by_size.setdefault(status.st_size, []).append(path)
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
