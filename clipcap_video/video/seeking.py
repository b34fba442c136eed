"""Frames of a long video without decoding all of it: an index of its packets, then jumps to key frames.

Packets carry the times of their frames, and reading them takes a hundredth of the time that decoding takes. So the
frames to keep are chosen by their true times before one is decoded, and each is reached from the key frame before it.
Whatever the decoder gives is checked against the index by its time; a file in which something does not agree (frames
without a time, a damaged stretch, an edit list) is read from beginning to end instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

# Below this many frames a video is decoded as fast as its index pays for.
LONG = 1000
# OpenCV aims so many frames before the one that it is asked for.
OPENCV_MARGIN = 16
# A jump has to save so much of the decoding, for it empties the decoder.
WORTH_IT = 0.5
SAME_TIME = 1e-3  # milliseconds


class Unseekable(Exception):
    """The decoder gives other frames than the index says."""


@dataclass(frozen=True)
class PacketIndex:
    """times: float64 [n], milliseconds as the decoder stamps frames, increasing. keys: int64 [k], places of key frames
    among them, the first of them 0."""

    times: np.ndarray
    keys: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        """Seconds from the first frame to each."""
        return (self.times - self.times[0]) / 1000

    def start_of(self, frame: int) -> int:
        """Where decoding begins when OpenCV is asked for `frame`."""
        return int(self.keys[np.searchsorted(self.keys, max(frame - OPENCV_MARGIN, 0), side="right") - 1])

    def cost(self, frames: Sequence[int]) -> int:
        """How many frames have to be decoded to reach `frames` (ascending)."""
        decoded, here = 0, -1
        for frame in frames:
            decoded += frame - max(here, self.start_of(frame) - 1)
            here = frame
        return decoded


def read_index(path: Path) -> PacketIndex | None:
    """The index of a video file; None where its packets do not tell one."""
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    times, keys = [], []
    try:
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            keys.append(capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) > 0)
    except cv2.error:
        return None
    finally:
        capture.release()
    order = np.argsort(times, kind="stable")
    sorted_times = np.asarray(times, dtype=np.float64)[order]
    sorted_keys = np.flatnonzero(np.asarray(keys, dtype=bool)[order])
    if len(times) < 2 or not len(sorted_keys) or sorted_keys[0] != 0 or (np.diff(sorted_times) <= SAME_TIME).any():
        return None
    return PacketIndex(sorted_times, sorted_keys)


def worth_seeking(index: PacketIndex, frames: Sequence[int]) -> bool:
    return index.cost(frames) < WORTH_IT * len(index.times)


def grab_at(capture: cv2.VideoCapture, rate: float, index: PacketIndex, frames: Sequence[int]) -> Iterator[int]:
    """Gives each of `frames` (ascending) when it is the one that `capture`, freshly opened, has grabbed.

    rate: frames per second by the header. Raises Unseekable as soon as a frame's time is not the index's.
    """
    here = _grab(capture, index)
    if here != 0:
        raise Unseekable
    for frame in frames:
        if index.start_of(frame) > here:
            # The number that OpenCV gives to this frame's time.
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(index.seconds[frame] * rate + 0.5))
            here = _grab(capture, index)
        while here < frame:
            following = _grab(capture, index)
            if following != here + 1:
                raise Unseekable
            here = following
        if here != frame:
            raise Unseekable
        yield frame


def _grab(capture: cv2.VideoCapture, index: PacketIndex) -> int:
    """The place in the index of the next frame."""
    if not capture.grab():
        raise Unseekable
    time = capture.get(cv2.CAP_PROP_POS_MSEC)
    place = int(np.searchsorted(index.times, time - SAME_TIME))
    if place == len(index.times) or abs(index.times[place] - time) > SAME_TIME:
        raise Unseekable
    return place
