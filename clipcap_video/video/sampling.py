"""Which frames of a video to keep: pure index arithmetic, no files.

A spec first thins the video to *base frames* (every frame, or the first at or after each multiple of
`1 / fps` seconds) and then chooses among them. `head`, `tail` and `uniform` mean what CLIP4Clip's
`--slice_framepos 0|1|2` means on frames taken at `--feature_framerate` (Luo et al., arXiv 2104.08860, 4.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clipcap_video.errors import ClipcapError

SAMPLINGS = ("uniform", "head", "tail", "fps", "reference")

# Matroska and WebM round times to whole milliseconds: a frame due at 33.3 ms is stamped 33 ms and still
# counts as being at that multiple of 1/30 s.
TIME_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SamplingSpec:
    """How frames are chosen; stored with the features so that inference can do the same.

    sampling: one of SAMPLINGS.
        `uniform`: N base frames at equal distances, the first and the last included.
        `head`, `tail`: the first or last N base frames.
        `fps`: all base frames, thinned uniformly to `max_frames` where that is set.
        `reference`: the MSR-VTT ClipCap program's rule: every (count // N)-th frame, the first N of them.
        A video with fewer base frames than N gives all that it has.
    frames: N, how many frames to keep at most; 0 under `fps`, which has no use for it.
    fps: frames per second of the base frames; None is every frame of the file. Left out, it becomes 1 under
        `head`, `tail` and `fps` (CLIP4Clip's --feature_framerate) and stays None under `uniform`.
    max_frames: for `fps` alone, the most frames to keep (a uniform choice among them); None keeps all.
    key_frames: for `uniform` alone, see `to_key_frames`. Files whose packets do not tell key frames give the frames
        that they would give without it.

    Two specs that choose the same frames are equal. Raises ClipcapError for values that make no sense.
    """

    sampling: str = "uniform"
    frames: int = 28
    fps: float | None = None
    max_frames: int | None = None
    key_frames: bool = False

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ClipcapError(f"unknown sampling {self.sampling!r}; use one of {', '.join(SAMPLINGS)}")
        if self.sampling == "fps":
            object.__setattr__(self, "frames", 0)
        elif self.frames < 1:
            raise ClipcapError(f"sampling {self.sampling} cannot keep {self.frames} frames; ask for 1 or more")
        if self.max_frames is not None and self.sampling != "fps":
            raise ClipcapError(f"max_frames belongs to sampling fps, not {self.sampling}; set frames instead")
        if self.max_frames is not None and self.max_frames < 1:
            raise ClipcapError(f"max_frames cannot be {self.max_frames}; ask for 1 or more, or leave it out")
        if self.key_frames and self.sampling != "uniform":
            raise ClipcapError(f"key_frames belongs to sampling uniform, not {self.sampling}; leave it out")
        if self.fps is not None and self.sampling == "reference":
            raise ClipcapError("sampling reference counts every frame of the file; leave fps out")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ClipcapError(f"fps cannot be {self.fps}; give a number of frames per second above 0")
        if self.fps is not None:
            object.__setattr__(self, "fps", float(self.fps))
        elif self.sampling in ("head", "tail", "fps"):
            object.__setattr__(self, "fps", 1.0)

    @property
    def decided_online(self) -> bool:
        """Whether a frame's fate is known when it comes, without the length of the video."""
        return self.sampling == "head" or (self.sampling == "fps" and self.max_frames is None)


@dataclass(frozen=True)
class Span:
    """A part of a video: frames at start <= time < end, in seconds from its first frame.

    Raises ClipcapError for times that make no sense.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.end) and 0 <= self.start <= self.end):
            raise ClipcapError(f"a part of a video cannot go from {self.start} to {self.end} seconds; fix the times")

    def frames(self, timestamps: np.ndarray) -> np.ndarray:
        """Indices int64 [m] of the frames inside, of frames at `timestamps` [n >= 1], ascending; never none.

        A part between two frames is the one nearest to its middle.
        """
        inside = np.flatnonzero((timestamps >= self.start) & (timestamps < self.end))
        if len(inside) == 0:
            middle = (self.start + self.end) / 2
            inside = np.asarray([np.abs(timestamps - middle).argmin()])
        return inside.astype(np.int64)


class FrameClock:
    """Tells base frames as they come: `is_base(time)` for each frame's time in seconds, in order."""

    def __init__(self, fps: float | None) -> None:
        self.fps = fps
        self._tick = -1.0

    def is_base(self, time: float) -> bool:
        if self.fps is None:
            return True
        tick = math.floor((time + TIME_TOLERANCE) * self.fps)
        if tick <= self._tick:
            return False
        self._tick = tick
        return True


def base_indices(timestamps: np.ndarray, fps: float | None) -> np.ndarray:
    """Indices of the base frames among frames at `timestamps` [n], seconds, ascending -> int64 [m].

    With `fps`, the first frame at or after each of 0, 1/fps, 2/fps, ... seconds (to within TIME_TOLERANCE); a
    frame that is the first after several of them counts once. Without, all frames.
    """
    if fps is None or len(timestamps) == 0:
        return np.arange(len(timestamps), dtype=np.int64)
    ticks = np.floor((np.asarray(timestamps, dtype=np.float64) + TIME_TOLERANCE) * fps)
    before = np.concatenate([[-1.0], np.maximum.accumulate(ticks)[:-1]])
    return np.flatnonzero(ticks > before).astype(np.int64)


def spread(count: int, most: int, nearest: bool = False) -> np.ndarray:
    """At most `most` of `count` positions, evenly spaced: int64 [k].

    nearest: rounded to the nearest position, as captioners were always trained; else downwards, as CLIP4Clip does under
        --slice_framepos 2.
    """
    if count <= most:
        return np.arange(count, dtype=np.int64)
    places = np.linspace(0, count - 1, num=most)
    return (places.round() if nearest else places).astype(np.int64)


def middle_frames(count: int, clip: int) -> np.ndarray:
    """Which frame stands for each clip of `clip` consecutive ones among `count`: the middle one, int64 [n].

    The last clip may have fewer; of an even number of frames it is the earlier of the two in the middle.
    """
    first = np.arange(0, count, clip)
    last = np.minimum(first + clip, count) - 1
    return (first + last) // 2


def choose(
    spec: SamplingSpec, timestamps: np.ndarray, span: Span | None = None, keys: np.ndarray | None = None
) -> np.ndarray:
    """Frames to keep of a video whose n frames are at `timestamps` [n], seconds, ascending.

    span: choose among the frames of that part, as if it were the whole video. keys: int64 [m], ascending, which of the
        frames are key frames, where that is known.
    Returns indices int64 [k], ascending, without duplicates.
    """
    if span is not None and len(timestamps):
        inside = span.frames(timestamps)
        if keys is not None:
            keys = keys[(keys >= inside[0]) & (keys <= inside[-1])] - inside[0]
        return inside[choose(spec, timestamps[inside] - min(span.start, timestamps[inside[0]]), keys=keys)]
    base = base_indices(timestamps, spec.fps)
    if spec.sampling == "uniform":
        chosen = base[spread(len(base), spec.frames)]
        return to_key_frames(chosen, timestamps, keys) if spec.key_frames and keys is not None else chosen
    if spec.sampling == "head":
        return base[: spec.frames]
    if spec.sampling == "tail":
        return base[-spec.frames :]
    if spec.sampling == "fps":
        return base if spec.max_frames is None else base[spread(len(base), spec.max_frames)]
    # The reference program divides by the step, and so crashes where the video has fewer than N frames.
    step = max(len(base) // spec.frames, 1)
    return base[::step][: spec.frames]


def to_key_frames(chosen: np.ndarray, timestamps: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Chosen frames moved to key frames, which are decoded by themselves, where there is one near.

    chosen: int64 [k], ascending, among frames at `timestamps` [n], seconds, ascending. keys: int64 [m], ascending, the
    key frames among them. A frame moves to the nearest key frame if that is closer than half the way to the next
    chosen frame on either side, so none meet and their order stays. Long videos, whose chosen frames are further
    apart than their key frames, move; short ones hardly do. Returns int64 [k].
    """
    if len(chosen) == 0 or len(keys) == 0:
        return chosen
    times, key_times = timestamps[chosen], timestamps[keys]
    after = np.searchsorted(key_times, times).clip(1, len(keys) - 1) if len(keys) > 1 else np.zeros(len(times), int)
    before = np.maximum(after - 1, 0)
    nearest = np.where(times - key_times[before] <= key_times[after] - times, before, after)
    gaps = np.diff(times, prepend=-np.inf, append=np.inf)
    room = np.minimum(gaps[:-1], gaps[1:]) / 2
    near = np.abs(key_times[nearest] - times) < room
    return np.where(near, keys[nearest], chosen)


def to_sound(chosen: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Chosen frames that are damaged give way to better ones between their neighbours, and are left out without any.

    chosen: int64 [k], ascending. states: [n], 0 for a sound frame, 1 for one that may refer to a damaged one, 2 for a
    damaged one. The nearest of the best ones is taken. All are kept where nothing but damage was chosen.
    Returns int64 [m], ascending.
    """
    if not states[chosen].any():
        return chosen
    kept: list[int] = []
    for place, frame in enumerate(chosen.tolist()):
        low = kept[-1] + 1 if kept else 0
        high = int(chosen[place + 1]) if place + 1 < len(chosen) else len(states)
        if states[frame] and low < high:
            between = np.arange(low, high)
            best = between[states[between] == states[between].min()]
            nearest = int(best[np.abs(best - frame).argmin()])
            frame = nearest if states[nearest] < states[frame] else frame
        if states[frame] < 2:
            kept.append(frame)
    return np.asarray(kept, dtype=np.int64) if kept else chosen
