"""The search index: unit vectors of all frames of a feature store, in one file that is memory-mapped.

The file is FEATURES/search/KEY.safetensors, KEY telling what made vectors of the features; of a feature file X.hdf5 it
is X.search/KEY.safetensors. It is made once, and parts of it anew when features change. Tensors, V videos of F frames:

    frames   float16 [F, D]  unit vectors, the frames of a video one after another
    videos   float16 [V, D]  the mean of each video's frames, of unit length
    offsets  int64 [V + 1]   rows of video v in `frames` begin at offsets[v]
    times    float32 [F]     seconds; not a number where the features have none
    stamps   int64 [V, 2]    size and modification time of the feature file
    ids      uint8 [n]       the video ids, a JSON list
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore, VideoFeatures
from clipcap_video.features.batching import thin_frames
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.files import whole_file

VERSION = "1"
FOLDER = "search"
SUFFIX = ".safetensors"
BATCH = 256  # videos embedded at once
# A folder that was changed this recently may be changed again within one tick of its clock.
SETTLED_NS = 2_000_000_000
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
}


class FrameEmbedder(Protocol):
    """What makes vectors of frame features.

    key: tells it from others; a file name. fingerprint: of the features that it reads; None where it reads any.
    max_frames: frames of a video that it reads, evenly spread, at most; None is all.
    """

    key: str
    fingerprint: Fingerprint | None
    max_frames: int | None

    def embed(self, videos: Sequence[VideoFeatures]) -> list[np.ndarray]:
        """Unit vectors float32 [T_i, E] of the frames of each video, of which none has more than max_frames."""


@dataclass(frozen=True)
class SearchIndex:
    """An open index; see above for the arrays. fingerprint: of the features."""

    path: Path
    ids: list[str]
    frames: np.ndarray
    videos: np.ndarray
    offsets: np.ndarray
    times: np.ndarray
    stamps: np.ndarray
    fingerprint: Fingerprint | None

    @property
    def dim(self) -> int:
        return int(self.frames.shape[1])

    def rows(self, video: int) -> slice:
        """The rows of one video's frames."""
        return slice(int(self.offsets[video]), int(self.offsets[video + 1]))


def index_folder(features: Path) -> Path:
    """Where the indices of a feature store lie, unless said otherwise."""
    return features / FOLDER if features.is_dir() else features.with_suffix(f".{FOLDER}")


def fresh_index(features: Path, embedder: FrameEmbedder, folder: Path) -> SearchIndex | None:
    """The index in `folder`, if it is known at a glance that nothing came or went since it was compared with features.

    An index bears the time of the folder of features that it was compared with. While they agree, the thousands of
    files in there need not be looked at.
    """
    file = _file(folder, embedder)
    index = _read(file)
    return index if index is not None and features.exists() and _stamp(features)[1] == _stamp(file)[1] else None


def update_index(
    store: FeatureStore, embedder: FrameEmbedder, folder: Path, *, rebuild: bool = False, progress: bool = True
) -> SearchIndex:
    """The index of a feature store, made, or brought up to date where features have changed.

    rebuild: make it anew, whatever is there.
    Raises ClipcapError when the features are not those that the embedder reads, or the index cannot be written.
    """
    check_fingerprints(embedder.fingerprint, store.fingerprint, store.path)
    file = _file(folder, embedder)
    looked = time.time_ns()
    stamps = np.array([_stamp(store.file(video_id)) for video_id in store.ids()], dtype=np.int64)
    old = None if rebuild else _read(file)
    if old is not None and old.fingerprint != store.fingerprint:
        old = None
    try:
        if old is None or old.ids != store.ids() or not np.array_equal(old.stamps, stamps):
            folder.mkdir(parents=True, exist_ok=True)
            _build(file, store, stamps, embedder, old, progress)
        settled = _stamp(store.path)[1]
        os.utime(file, ns=(looked, settled if settled < looked - SETTLED_NS else 0))
    except OSError as error:
        raise ClipcapError(
            f"cannot write the search index {file} ({error.strerror}); give another place with --index"
        ) from None
    index = _read(file)
    assert index is not None
    return index


def _file(folder: Path, embedder: FrameEmbedder) -> Path:
    return folder / f"{embedder.key}{SUFFIX}"


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change: what tells that a file is another."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _build(
    file: Path,
    store: FeatureStore,
    stamps: np.ndarray,
    embedder: FrameEmbedder,
    old: SearchIndex | None,
    progress: bool,
) -> None:
    """Writes the index, whole or not at all. What `old` has of files that are unchanged is copied from it."""
    ids = store.ids()
    places = {} if old is None else {video_id: place for place, video_id in enumerate(old.ids)}
    kept: dict[int, int] = {}
    counts = np.zeros(len(ids), dtype=np.int64)
    for number, video_id in enumerate(ids):
        place = places.get(video_id)
        if old is not None and place is not None and np.array_equal(old.stamps[place], stamps[number]):
            kept[number] = place
            counts[number] = old.offsets[place + 1] - old.offsets[place]
        else:
            frames = store.shape(video_id).frames
            counts[number] = frames if embedder.max_frames is None else min(frames, embedder.max_frames)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    new = [number for number in range(len(ids)) if number not in kept]
    batches = [new[start : start + BATCH] for start in range(0, len(new), BATCH)]
    first = _embed(store, [ids[number] for number in batches[0]], embedder) if batches else None
    dim = first[0][0].shape[1] if first else old.dim  # type: ignore[union-attr]  # without new ones, all are old
    named = np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8)
    rows_in_all = int(offsets[-1])
    shapes = {
        "offsets": ("I64", (len(ids) + 1,)), "stamps": ("I64", (len(ids), 2)), "times": ("F32", (rows_in_all,)),
        "frames": ("F16", (rows_in_all, dim)), "videos": ("F16", (len(ids), dim)), "ids": ("U8", named.shape),
    }  # fmt: skip
    bar = tqdm(
        total=len(ids), initial=len(kept), unit="video", desc="index", disable=not (progress and sys.stderr.isatty())
    )
    with bar, whole_file(file) as partial:
        arrays = _create(partial, shapes, store.fingerprint)
        arrays["offsets"][:], arrays["stamps"][:], arrays["ids"][:] = offsets, stamps, named
        for number, place in kept.items():
            assert old is not None
            rows = slice(offsets[number], offsets[number + 1])
            arrays["frames"][rows], arrays["times"][rows] = old.frames[old.rows(place)], old.times[old.rows(place)]
            arrays["videos"][number] = old.videos[place]
        for turn, batch in enumerate(batches):
            done = first if turn == 0 and first else _embed(store, [ids[number] for number in batch], embedder)
            for number, (vectors, times) in zip(batch, done, strict=True):
                if vectors.shape[1] != dim:
                    raise ClipcapError(
                        f"features of {ids[number]} in {store.path} are {vectors.shape[1]} wide, others {dim}; "
                        "extract all of them with one encoder"
                    )
                rows = slice(offsets[number], offsets[number + 1])
                arrays["frames"][rows], arrays["times"][rows] = vectors, times
                arrays["videos"][number] = mean_vector(vectors)
            bar.update(len(batch))
        del arrays


def _embed(
    store: FeatureStore, video_ids: Sequence[str], embedder: FrameEmbedder
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Unit vectors [T, D] and times [T] of each video."""
    videos = [store.load(video_id) for video_id in video_ids]
    if embedder.max_frames is not None:
        videos = [thin_frames(video, embedder.max_frames) for video in videos]
    times = [np.full(len(video.features), np.nan) if video.timestamps is None else video.timestamps for video in videos]
    return list(zip(embedder.embed(videos), times, strict=True))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] divided by their length, float32; zero, or what is not finite, becomes zero."""
    vectors = np.nan_to_num(vectors.astype(np.float32), nan=0, posinf=0, neginf=0)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def mean_vector(vectors: np.ndarray) -> np.ndarray:
    """The vector of a video, [D]: the mean of its frames' unit vectors [T, D], of unit length (CLIP4Clip's meanP)."""
    return unit(vectors.astype(np.float32).mean(axis=0))


def _create(
    file: Path, shapes: dict[str, tuple[str, tuple[int, ...]]], fingerprint: Fingerprint | None
) -> dict[str, np.ndarray]:
    """A safetensors file of zeros, its tensors open for writing."""
    metadata = {"search_index": VERSION, "fingerprint": "" if fingerprint is None else fingerprint.to_json()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (code, shape) in shapes.items():
        start, end = end, end + math.prod(shape) * _DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return _map(file, header, 8 + len(text), "r+")


def _map(file: Path, header: dict[str, Any], start: int, mode: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            place = start + entry["data_offsets"][0]
            mapped = np.memmap(file, _DTYPES[entry["dtype"]], mode, place, tuple(entry["shape"]))
            arrays[name] = np.asarray(mapped)  # slices of a memmap itself are slow to make
    return arrays


def _read(file: Path) -> SearchIndex | None:
    """The index in `file`; None where there is none, or not a whole one."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > 1_000_000:
                return None
            header = json.loads(stream.read(length))
        if header["__metadata__"]["search_index"] != VERSION:
            return None
        arrays = _map(file, header, 8 + length, "r")
        said = header["__metadata__"]["fingerprint"]
        return SearchIndex(
            path=file,
            ids=json.loads(arrays["ids"].tobytes()),
            frames=arrays["frames"],
            videos=arrays["videos"],
            offsets=np.array(arrays["offsets"]),
            times=np.array(arrays["times"]),
            stamps=np.array(arrays["stamps"]),
            fingerprint=Fingerprint.from_json(said) if said else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
