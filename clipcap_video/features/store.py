"""Frame features on disk: one safetensors file a video, or the older HDF5 and .npy layouts.

`<directory>/<video_id>.safetensors` holds `features` float16 [T, D] and `timestamps` float32 [T] in seconds;
its header carries the fingerprint. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import (
    FeatureShape,
    FeatureStore,
    MixedFeatures,
    Origin,
    VideoFeatures,
    check,
    checked,
    shape_2d,
)
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import open_safetensors, reading, sorted_ids, whole_file
from clipcap_video.video.damage import Damage

SUFFIX = ".safetensors"
AGAIN = "delete it and extract again"


class SafetensorsStore(FeatureStore):
    """Our own layout. All files must carry one fingerprint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = sorted_ids(file.name[: -len(SUFFIX)] for file in path.glob(f"*{SUFFIX}"))
        self._headers: dict[str, FeatureShape] = {}
        for video_id in self._ids:
            try:
                self.fingerprint = self._read(video_id)
                break
            except ClipcapError:  # a damaged file, which is an error for who wants just that one
                if video_id == self._ids[-1]:
                    raise

    def ids(self) -> list[str]:
        return self._ids

    def file(self, video_id: str) -> Path:
        return self.path / f"{video_id}{SUFFIX}"

    def _read(self, video_id: str) -> Fingerprint:
        file = self.file(video_id)
        fingerprint, shape = read_header(file)
        if self.fingerprint is not None and not fingerprint.matches(self.fingerprint):
            raise MixedFeatures(
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

    def origin(self, video_id: str) -> Origin:
        return read_origin(self.file(video_id))

    def load(self, video_id: str) -> VideoFeatures:
        self.shape(video_id)
        return read_features(self.file(video_id))


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
        with reading(file, "the features", AGAIN):
            return np.load(file, mmap_mode="r", allow_pickle=False)

    def shape(self, video_id: str) -> FeatureShape:
        return shape_2d(self._open(video_id).shape, self.path, video_id)

    def load(self, video_id: str) -> VideoFeatures:
        self.shape(video_id)
        with reading(self.file(video_id), "the features", AGAIN):
            return checked(np.array(self._open(video_id)), None, self.file(video_id))


def read_header(file: Path) -> tuple[Fingerprint, FeatureShape]:
    """Fingerprint and shape of one feature file, from its first bytes; also proves that the file is whole.

    Raises ClipcapError when the file is damaged or not ours.
    """
    with reading(file, "the features", AGAIN):
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
        return fingerprint, shape_2d(tuple(header["features"]["shape"]), file.parent, file.stem)


def read_origin(file: Path) -> Origin:
    """Which decoder made one feature file, and what it found; nothing is known of a file of another kind."""
    with suppress(Exception), file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        metadata = json.loads(stream.read(min(length, 1_000_000)))["__metadata__"]
        damage = Damage.from_json(json.loads(metadata.get("damage", "null")))
        return Origin(metadata.get("decoder"), damage)
    return Origin()


def read_features(file: Path) -> VideoFeatures:
    """What one feature file holds. Raises ClipcapError when it is damaged."""
    return checked(*_tensors(file), file)


def check_features(file: Path) -> None:
    """Raises ClipcapError when one feature file is damaged."""
    check(*_tensors(file), file)


def _tensors(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with open_safetensors(file, "the features", AGAIN, "numpy") as opened:
        return opened.get_tensor("features"), opened.get_tensor("timestamps")


def write_features(
    directory: Path,
    video_id: str,
    features: np.ndarray,
    timestamps: np.ndarray,
    fingerprint: Fingerprint,
    origin: Origin | None = None,
) -> Path:
    """Writes features [T, D] and timestamps [T] (seconds) of one video, whole or not at all."""
    from safetensors.numpy import save

    file = directory / f"{video_id}{SUFFIX}"
    tensors = {
        "features": np.ascontiguousarray(features, dtype=np.float16),
        "timestamps": np.ascontiguousarray(timestamps, dtype=np.float32),
    }
    metadata = {"fingerprint": fingerprint.to_json()}
    if origin is not None and origin.decoder is not None:
        metadata["decoder"] = origin.decoder
    if origin is not None and origin.damage is not None:
        metadata["damage"] = json.dumps(origin.damage.to_json())
    with whole_file(file) as partial:
        # `save_file` would make the file readable by its owner alone, whatever the umask.
        partial.write_bytes(_in_order(save(tensors, metadata=metadata)))
    return file


@dataclass(frozen=True)
class FileWriter:
    """Adds videos to a folder, a file each; has what a ShardWriter has."""

    out: Path
    fingerprint: Fingerprint

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def add(self, video_id: str, features: np.ndarray, timestamps: np.ndarray, origin: Origin) -> None:
        write_features(self.out, video_id, features, timestamps, self.fingerprint, origin)

    def fail(self, video_id: str, reason: str) -> None:
        """Such a layout has no place for what failed."""


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata in alphabetical order, for the library's changes from call to call."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
