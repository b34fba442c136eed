"""What every layout of stored features offers, and features of several videos as one padded batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import sorted_ids
from clipcap_video.video.damage import Damage
from clipcap_video.video.sampling import spread

if TYPE_CHECKING:
    from torch import Tensor


class MixedFeatures(ClipcapError):
    """Features in one place were made in different ways."""


@dataclass
class VideoFeatures:
    """features: float32 [T, D]; timestamps: float32 [T] in seconds, or None where the store has none."""

    features: np.ndarray
    timestamps: np.ndarray | None = None


@dataclass(frozen=True)
class FeatureShape:
    """What a file's header says: T frames of width D."""

    frames: int
    dim: int


@dataclass(frozen=True)
class Origin:
    """How a video's features were read. decoder: by which decoder; damage: what that found. None where it is not
    known, as of features made before these were kept."""

    decoder: str | None = None
    damage: Damage | None = None


class FeatureStore(ABC):
    """Read access to the features of many videos, whatever the layout on disk."""

    path: Path
    fingerprint: Fingerprint | None = None

    @abstractmethod
    def ids(self) -> list[str]:
        """Video ids in a fixed order (sorted, numbers by value)."""

    @abstractmethod
    def file(self, video_id: str) -> Path:
        """The file that holds one video's features, perhaps among others."""

    @abstractmethod
    def shape(self, video_id: str) -> FeatureShape:
        """The shape of one video's features, from headers alone."""

    @abstractmethod
    def load(self, video_id: str) -> VideoFeatures:
        """One video's features. Raises ClipcapError when the video is absent or its file is damaged."""

    def origin(self, video_id: str) -> Origin:
        """Where one video's features are from."""
        return Origin()

    def load_many(self, video_ids: Sequence[str]) -> list[VideoFeatures]:
        """The features of several videos."""
        return [self.load(video_id) for video_id in video_ids]

    def load_sound(self, video_ids: Sequence[str], damaged: dict[str, str] | None = None) -> dict[str, VideoFeatures]:
        """The features of several videos, by id.

        damaged: takes those that cannot be read, with the reason; unless given, they are an error.
        """
        found = {}
        for video_id in video_ids:
            try:
                found[video_id] = self.load(video_id)
            except ClipcapError as error:  # noqa: PERF203
                if damaged is None or isinstance(error, MixedFeatures):
                    raise
                damaged[video_id] = str(error)
        return found

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._id_set

    @property
    def _id_set(self) -> frozenset[str]:
        if not hasattr(self, "_ids_cached"):
            self._ids_cached = frozenset(self.ids())
        return self._ids_cached

    def _missing(self, video_id: str) -> ClipcapError:
        return ClipcapError(f"no features for video {video_id!r} in {self.path}; extract them with extract_features.py")


class MemoryStore(FeatureStore):
    """Features that are on no disk. videos: id -> features."""

    def __init__(self, path: Path, fingerprint: Fingerprint | None) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.videos: dict[str, VideoFeatures] = {}
        self.origins: dict[str, Origin] = {}

    def add(self, video_id: str, features: np.ndarray, timestamps: np.ndarray, origin: Origin) -> None:
        """features: [T, D], kept in the precision of stored ones; timestamps: [T] in seconds."""
        self.videos[video_id] = VideoFeatures(
            features.astype(np.float16).astype(np.float32), timestamps.astype(np.float32)
        )
        self.origins[video_id] = origin

    def ids(self) -> list[str]:
        return sorted_ids(self.videos)

    def file(self, video_id: str) -> Path:
        return self.path

    def shape(self, video_id: str) -> FeatureShape:
        return shape_2d(self.load(video_id).features.shape, self.path, video_id)

    def load(self, video_id: str) -> VideoFeatures:
        if video_id not in self.videos:
            raise self._missing(video_id)
        return self.videos[video_id]

    def origin(self, video_id: str) -> Origin:
        return self.origins[video_id]

    def __contains__(self, video_id: str) -> bool:
        return video_id in self.videos


def shape_2d(shape: tuple[int, ...], path: Path, video_id: str) -> FeatureShape:
    """The shape of stored features. Raises ClipcapError unless it is [frames, width]."""
    if len(shape) != 2 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ClipcapError(f"{path}: features of {video_id} have shape {list(shape)}; expected [frames, width]")
    return FeatureShape(*shape)


def checked(features: np.ndarray, timestamps: np.ndarray | None, where: Path | str) -> VideoFeatures:
    """One video's features as they were read, [T, D] and [T], if `check` passes them."""
    check(features, timestamps, where)
    return VideoFeatures(features.astype(np.float32), timestamps)


def check(features: np.ndarray, timestamps: np.ndarray | None, where: Path | str) -> None:
    """Looks at one video's features as they were read. where: the file, or the place in it, for the message.

    Raises ClipcapError for what no extractor writes: other shapes, numbers that are no real ones, NaN or infinity,
    and times that are missing, no numbers, or run backwards. A model would take them and be silently wrong.
    """
    problem = None
    if features.dtype.kind not in "f":
        problem = f"features of the type {features.dtype}, expected floating-point numbers"
    elif features.ndim != 2 or 0 in features.shape:
        problem = f"features of shape {list(features.shape)}, expected [frames, width]"
    elif not _all_finite(features):
        frame = int(np.argmin(np.isfinite(features).all(axis=1)))
        problem = f"a feature of frame {frame} that is no finite number"
    elif timestamps is not None and timestamps.shape != (len(features),):
        problem = f"times of shape {list(timestamps.shape)} for {len(features)} frames"
    elif timestamps is not None and not (np.isfinite(timestamps).all() and (np.diff(timestamps) >= 0).all()):
        problem = "times that are no numbers or run backwards"
    if problem is not None:
        raise ClipcapError(f"{where} holds {problem}; delete it and extract again")


def _all_finite(values: np.ndarray) -> bool:
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    # By the bits of the exponent, all set in what is not finite: NumPy is slow with halves.
    exponent = np.uint16(0x7C00)
    return not ((np.ascontiguousarray(values).view(np.uint16) & exponent) == exponent).any()


def stack_features(videos: Sequence[np.ndarray], at_least: int = 0) -> tuple[Tensor, Tensor]:
    """Pads features [T_i, D] of several videos to the longest -> features [B, T, D] float32, mask [B, T] bool.

    at_least: frames that all are padded to if the longest has fewer.

    Pixels of frames, uint8 [T_i, 3, S, S], are padded in the same way and stay uint8.
    """
    import torch  # a finished extraction has no need of it

    longest = max(at_least, *(len(video) for video in videos))
    dtype = np.uint8 if videos[0].dtype == np.uint8 else np.float32
    features = torch.from_numpy(np.zeros((len(videos), longest, *videos[0].shape[1:]), dtype))
    mask = torch.zeros(len(videos), longest, dtype=torch.bool)
    for row, video in enumerate(videos):
        features[row, : len(video)] = torch.from_numpy(np.asarray(video, dtype=dtype))
        mask[row, : len(video)] = True
    return features, mask


def thin_frames(video: VideoFeatures, max_frames: int) -> VideoFeatures:
    """At most `max_frames` frames, evenly spread over the video."""
    if len(video.features) <= max_frames:
        return video
    keep = spread(len(video.features), max_frames, nearest=True)
    times = None if video.timestamps is None else video.timestamps[keep]
    return VideoFeatures(video.features[keep], times)
