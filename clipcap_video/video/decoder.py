"""A video file decoded from beginning to end by OpenCV, with the true time of each frame."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipcap_video.errors import VideoError

# Read once, when cv2 loads and opens its first file. Damaged videos become a VideoError or a warning of ours;
# what the libraries would print about them says no more and cannot be tied to a file.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

DEFAULT_RATE = 25.0
# Beyond 18 hours at 30 frames a second a header's frame count is taken to be nonsense.
MOST_PROMISED = 2_000_000
# `grab` fails alike at a damaged frame and at the end, so it is tried again: often while the video is shorter
# than its header says (damage lasts up to the next key frame), else a few times. A try takes 50 us.
PATIENCE_WHILE_SHORT, PATIENCE = 500, 10
# Seconds: decoding from the middle of a file begins this much before the time that is asked for.
ENTRY_MARGIN = 1.0
# Containers that know where each frame lies. In others (MPEG) times after a jump are estimates.
INDEXED = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


class Decoder:
    """An open video: iterating grabs frame after frame and gives its time; `retrieve` is the grabbed frame.

    threads: of the codec; 0 leaves it to the codec.
    rate: frames per second according to the header. promised: its frame count, 0 where it has none.
    Raises VideoError when the file is missing, empty or no video. Use it as a context manager.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            if not path.is_file():
                raise VideoError(f"no video file at {path}; check the path")
            if path.stat().st_size == 0:
                raise VideoError(f"{path} is empty (0 bytes); fetch it again or remove it")
            with path.open("rb"):
                pass
        except OSError as error:
            raise VideoError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
        self._path = path
        self._threads = threads
        self._open()
        rate = self._property(cv2.CAP_PROP_FPS)
        count = self._property(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = rate if 0 < rate <= 1000 else DEFAULT_RATE
        self.promised = int(count) if 0 < count <= MOST_PROMISED else 0

    def _open(self) -> None:
        path = self._path
        # An absolute path is never taken for a URL. Backends other than FFmpeg read "clip7.mp4" as a series
        # of images, so they are asked only where FFmpeg is absent.
        has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
        backend = cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY
        options = [cv2.CAP_PROP_N_THREADS, self._threads] if has_ffmpeg else []
        try:
            self._capture = cv2.VideoCapture(str(path.absolute()), backend, options)
        except (cv2.error, UnicodeError) as error:
            raise VideoError(f"{path} cannot be opened ({error}); rename, re-encode or remove it") from None
        if not self._capture.isOpened():
            self._capture.release()
            raise VideoError(f"{path} is not a video, or is cut off or damaged; re-encode, fetch or remove it")

    def _property(self, which: int) -> float:
        value = float(self._capture.get(which))
        return value if math.isfinite(value) else 0.0

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[float]:
        """Seconds from the first frame to each, strictly increasing.

        Times are relative to the first frame because AVI files with B-frames start one frame late (and stamp
        the last frame 0). A time that does not increase becomes the one before plus a frame's nominal length.
        """
        return self.times()

    def times(self, start: float = 0.0) -> Iterator[float]:
        """As iterating; with `start` (seconds), most of what comes before it is skipped without being decoded."""
        first = last = 0.0
        decoded = failed = 0
        while failed <= (PATIENCE_WHILE_SHORT if decoded < self.promised else PATIENCE):
            if not self._capture.grab():
                failed += 1
                continue
            time = self._property(cv2.CAP_PROP_POS_MSEC) / 1000
            if decoded == 0:
                first = time
                indexed = self._path.suffix.lower() in INDEXED
                entered = self._enter(first, start) if indexed and start > ENTRY_MARGIN else None
                if entered is not None:
                    last, decoded = entered, round(entered * self.rate)
            else:
                last = time - first if time - first > last else last + 1 / self.rate
            decoded += 1
            failed = 0
            yield last

    def _enter(self, first: float, start: float) -> float | None:
        """Grabs a frame a little before `start`: its time. None, and the first frame grabbed anew, where that fails."""
        self._capture.set(cv2.CAP_PROP_POS_MSEC, (first + start - ENTRY_MARGIN) * 1000)
        if self._capture.grab():
            time = self._property(cv2.CAP_PROP_POS_MSEC) / 1000 - first
            if 0 < time <= start:
                return time
        # A missing index or a variable frame rate may mislead the search: then all of it is decoded.
        self._capture.release()
        self._open()
        self._capture.grab()
        return None

    def retrieve(self) -> np.ndarray | None:
        """The frame grabbed last, uint8 RGB [H, W, 3]; None where it cannot be decoded."""
        try:
            good, frame = self._capture.retrieve()
        except cv2.error:
            return None
        if not good or frame is None or frame.size == 0:
            return None
        if frame.ndim == 2 or frame.shape[2] == 1:
            return cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)
        return cv2.cvtColor(frame, cv2.COLOR_BGRA2RGB if frame.shape[2] == 4 else cv2.COLOR_BGR2RGB)
