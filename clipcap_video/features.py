"""Frame features on disk: one safetensors file a video, or the older HDF5 and .npy layouts.

`<directory>/<video_id>.safetensors` holds `features` float16 [T, D] and `timestamps` float32 [T] in seconds;
its header carries the fingerprint. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.files import whole_file
from clipcap_video.video.sampling import SamplingSpec

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
HDF5_SUFFIXES = (".hdf5", ".h5")
FINGERPRINT = "fingerprint"  # attribute of an HDF5 file that we wrote


@dataclass(frozen=True)
class Fingerprint:
    """How features were made. Features of different fingerprints do not mix."""

    encoder: str
    weights: str
    preprocessing: str
    sampling: SamplingSpec
    normalized: bool = False
    version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    @cache  # thousands of files say the same
    def from_json(cls, text: str) -> Fingerprint:
        raw = json.loads(text)
        known = {field.name for field in fields(cls)}
        raw = {key: value for key, value in raw.items() if key in known}
        return cls(**{**raw, "sampling": SamplingSpec(**raw["sampling"])})

    @cache  # noqa: B019  (there are as many as there are ways to make features)
    def matches(self, other: Fingerprint) -> bool:
        """Whether features of both are interchangeable; the encoder's name alone may differ (a path, an alias)."""
        return {**asdict(self), "encoder": ""} == {**asdict(other), "encoder": ""}

    def __str__(self) -> str:
        norm = ", normalised" if self.normalized else ""
        return f"{self.encoder} ({self.weights}; {self.preprocessing}; {self._sampled}{norm})"

    @property
    def _sampled(self) -> str:
        spec = self.sampling
        rate = "" if spec.fps is None else f" at {spec.fps:g} fps"
        count = spec.max_frames or "all" if spec.sampling == "fps" else spec.frames
        return f"{spec.sampling} {count}{rate}{', at key frames' if spec.key_frames else ''}"

    def unlike(self, other: Fingerprint) -> tuple[str, str]:
        """What is different about both, in words; all of both where it is more than one thing."""
        parts = [
            (
                f"features of {mine.encoder} ({mine.weights})",
                f"features of frames made {mine.preprocessing}",
                f"features of frames taken {mine._sampled}",
                "normalised features" if mine.normalized else "features that are not normalised",
            )
            for mine in (self, other)
        ]
        apart = [(first, second) for first, second in zip(*parts, strict=True) if first != second]
        return apart[0] if len(apart) == 1 else (str(self), str(other))


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

    def load_many(self, video_ids: Sequence[str]) -> list[VideoFeatures]:
        """The features of several videos."""
        return [self.load(video_id) for video_id in video_ids]

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._id_set

    @property
    def _id_set(self) -> frozenset[str]:
        if not hasattr(self, "_ids_cached"):
            self._ids_cached = frozenset(self.ids())
        return self._ids_cached

    def _missing(self, video_id: str) -> ClipcapError:
        return ClipcapError(f"no features for video {video_id!r} in {self.path}; extract them with extract_features.py")


def open_features(path: str | Path) -> FeatureStore:
    """The feature store at `path`: a folder of .safetensors or .npy files, or an .hdf5 file.

    Raises ClipcapError when nothing is there or its layout is unknown.
    """
    path = Path(path)
    if not path.exists():
        raise ClipcapError(f"no features at {path}; make them with extract_features.py --videos DIR --out {path}")
    if path.is_file():
        if path.suffix in HDF5_SUFFIXES:
            return HDF5Store(path)
        raise ClipcapError(f"{path} is not a feature store; give a folder of features or an .hdf5 file")
    if any(path.glob(f"*{SUFFIX}")):
        return SafetensorsStore(path)
    if any(path.glob("*.npy")):
        return NumpyStore(path)
    raise ClipcapError(f"no features in folder {path}; make them with extract_features.py --videos DIR --out {path}")


def natural_key(video_id: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts video2 before video10."""
    # re.split with a group puts the digits at the odd places.
    parts = re.split(r"([0-9]+)", video_id)
    return tuple((0, int(part)) if place % 2 else (1, part) for place, part in enumerate(parts))


def sorted_ids(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=natural_key)


class SafetensorsStore(FeatureStore):
    """Our own layout. All files must carry one fingerprint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = sorted_ids(file.name[: -len(SUFFIX)] for file in path.glob(f"*{SUFFIX}"))
        self._headers: dict[str, FeatureShape] = {}
        self.fingerprint = self._read(self._ids[0]) if self._ids else None

    def ids(self) -> list[str]:
        return self._ids

    def file(self, video_id: str) -> Path:
        return self.path / f"{video_id}{SUFFIX}"

    def _read(self, video_id: str) -> Fingerprint:
        file = self.file(video_id)
        fingerprint, shape = read_header(file)
        if self.fingerprint is not None and not fingerprint.matches(self.fingerprint):
            raise ClipcapError(
                f"features of two kinds in {self.path}: {file.name} is {fingerprint}, "
                f"others are {self.fingerprint}; extract them into separate folders"
            )
        self._headers[video_id] = shape
        return fingerprint

    def shape(self, video_id: str) -> FeatureShape:
        if video_id not in self._headers:
            if video_id not in self:
                raise self._missing(video_id)
            self._read(video_id)
        return self._headers[video_id]

    def load(self, video_id: str) -> VideoFeatures:
        self.shape(video_id)
        return read_features(self.file(video_id))


class HDF5Store(FeatureStore):
    """The layout of the MSR-VTT ClipCap repository: one dataset [T, D] a video at the top level."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ClipcapError(f"{path} is not a readable HDF5 file ({error}); check the download") from None
        self._ids = sorted_ids(self._file.keys())
        if not self._ids:
            raise ClipcapError(f"{path} holds no datasets; expected one [frames, width] array a video")
        try:
            said = self._file.attrs.get(FINGERPRINT)
            self.fingerprint = None if said is None else Fingerprint.from_json(str(said))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClipcapError(f"{path} does not say how it was made ({error}); extract again") from None

    def ids(self) -> list[str]:
        return self._ids

    def file(self, video_id: str) -> Path:
        return self.path

    def shape(self, video_id: str) -> FeatureShape:
        if video_id not in self:
            raise self._missing(video_id)
        return _shape_2d(self._file[video_id].shape, self.path, video_id)

    def load(self, video_id: str) -> VideoFeatures:
        self.shape(video_id)
        return VideoFeatures(np.asarray(self._file[video_id], dtype=np.float32))


class NumpyStore(FeatureStore):
    """A folder of `<video_id>.npy`, each [T, D]."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = sorted_ids(file.stem for file in path.glob("*.npy"))

    def ids(self) -> list[str]:
        return self._ids

    def file(self, video_id: str) -> Path:
        return self.path / f"{video_id}.npy"

    def _open(self, video_id: str) -> np.ndarray:
        if video_id not in self:
            raise self._missing(video_id)
        file = self.file(video_id)
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ClipcapError(f"{file} is damaged ({error}); delete it and extract again") from None

    def shape(self, video_id: str) -> FeatureShape:
        return _shape_2d(self._open(video_id).shape, self.path, video_id)

    def load(self, video_id: str) -> VideoFeatures:
        self.shape(video_id)
        return VideoFeatures(np.array(self._open(video_id), dtype=np.float32))


def _shape_2d(shape: tuple[int, ...], path: Path, video_id: str) -> FeatureShape:
    if len(shape) != 2 or 0 in shape:
        raise ClipcapError(f"{path}: features of {video_id} have shape {list(shape)}; expected [frames, width]")
    return FeatureShape(*shape)


def read_header(file: Path) -> tuple[Fingerprint, FeatureShape]:
    """Fingerprint and shape of one feature file, from its first bytes; also proves that the file is whole.

    Raises ClipcapError when the file is damaged or not ours.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 1_000_000:
                raise ValueError("no safetensors header")
            header = json.loads(stream.read(length))
            size = os.fstat(stream.fileno()).st_size
        metadata = header.pop("__metadata__")
        end = max(entry["data_offsets"][1] for entry in header.values())
        if size != 8 + length + end:
            raise ValueError(f"{size} bytes, expected {8 + length + end}")
        fingerprint = Fingerprint.from_json(metadata["fingerprint"])
        shape = _shape_2d(tuple(header["features"]["shape"]), file.parent, file.stem)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ClipcapError(f"{file} is not a whole feature file ({error}); delete it and extract again") from None
    return fingerprint, shape


def read_features(file: Path) -> VideoFeatures:
    """What one feature file holds. Raises ClipcapError when it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(file)
        return VideoFeatures(tensors["features"].astype(np.float32), tensors["timestamps"])
    except (SafetensorError, KeyError, OSError) as error:
        raise ClipcapError(f"{file} is damaged ({error}); delete it and extract again") from None


def write_features(
    directory: Path, video_id: str, features: np.ndarray, timestamps: np.ndarray, fingerprint: Fingerprint
) -> Path:
    """Writes features [T, D] and timestamps [T] (seconds) of one video, whole or not at all."""
    from safetensors.numpy import save

    file = directory / f"{video_id}{SUFFIX}"
    tensors = {
        "features": np.ascontiguousarray(features, dtype=np.float16),
        "timestamps": np.ascontiguousarray(timestamps, dtype=np.float32),
    }
    with whole_file(file) as partial:
        # `save_file` would make the file readable by its owner alone, whatever the umask.
        partial.write_bytes(save(tensors, metadata={"fingerprint": fingerprint.to_json()}))
    return file


def check_fingerprints(trained_on: Fingerprint | None, given: Fingerprint | None, where: Path | str) -> None:
    """Refuses features that a model was not trained on. Stores without a fingerprint pass.

    Raises ClipcapError naming what differs.
    """
    if trained_on is None or given is None or trained_on.matches(given):
        return
    these, those = given.unlike(trained_on)
    raise ClipcapError(
        f"the features in {where} are {these}, but the model was trained on {those}; "
        "extract features with the model's encoder and sampling"
    )
