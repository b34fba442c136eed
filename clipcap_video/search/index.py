"""The search index: unit vectors of all frames of a feature store, in one file that is memory-mapped.

The file is FEATURES/search/KEY.index, KEY telling what made vectors of the features; of a feature file X.hdf5 it
is X.search/KEY.index. It is made once, and parts of it anew when features change. It holds arrays one after the other,
each as `numpy.save` writes it and `numpy.load` reads it; of V videos of F frames:

    vectors  float16 [F + V, D]  unit vectors: the frames of a video one after another, then the mean of each video's
    offsets  int64 [V + 1]       rows of video v in `vectors` begin at offsets[v]
    times    float32 [F]         seconds; not a number where the features have none
    stamps   int64 [V, 2]        size and modification time of the feature file
    about    uint8 [n]           JSON: version, fingerprint of the features, ids of the videos
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.lib.format import open_memmap, read_array_header_1_0, read_magic
from tqdm import tqdm

from clipcap_video import console
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore, VideoFeatures, thin_frames
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.files import kind_of, require_room, whole_file

VERSION = 2
FOLDER = "search"
SUFFIX = ".index"
BATCH = 256  # videos embedded at once
# A folder that was changed this recently may be changed again within one tick of its clock.
SETTLED_NS = 2_000_000_000


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
    """An open index; see above for the arrays. frames [F, D], videos [V, D]: the two parts of `vectors`, on disk.

    fingerprint: of the features.
    """

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
    index = read_index(file)
    return index if index is not None and features.exists() and stamp_of(features)[1] == stamp_of(file)[1] else None


def update_index(store: FeatureStore, embedder: FrameEmbedder, folder: Path, *, progress: bool = True) -> SearchIndex:
    """The index of a feature store, made, or brought up to date where features have changed.

    Raises ClipcapError when the features are not those that the embedder reads, or the index cannot be written.
    """
    check_fingerprints(embedder.fingerprint, store.fingerprint, store.path)
    file = _file(folder, embedder)
    looked = time.time_ns()
    stamps = stamps_of(store)
    old = read_index(file)
    if old is not None and old.fingerprint != store.fingerprint:
        old = None
    try:
        if old is None or old.ids != store.ids() or not np.array_equal(old.stamps, stamps):
            folder.mkdir(parents=True, exist_ok=True)
            build_index(file, store, stamps, embedder, old, progress)
        settled = stamp_of(store.path)[1]
        os.utime(file, ns=(looked, settled if settled < looked - SETTLED_NS else 0))
    except OSError as error:
        raise ClipcapError(
            f"cannot write the search index {file} ({error.strerror}); give another place with --index_dir"
        ) from None
    index = read_index(file)
    assert index is not None
    return index


def _file(folder: Path, embedder: FrameEmbedder) -> Path:
    return folder / f"{embedder.key}{SUFFIX}"


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change: what tells that a file is another."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def stamps_of(store: FeatureStore) -> np.ndarray:
    """Of each video's file, [V, 2]; a file of many videos is looked at once."""
    files = [store.file(video_id) for video_id in store.ids()]
    known = {file: stamp_of(file) for file in dict.fromkeys(files)}
    return np.array([known[file] for file in files], dtype=np.int64).reshape(-1, 2)


def build_index(
    file: Path,
    store: FeatureStore,
    stamps: np.ndarray,
    embedder: FrameEmbedder,
    old: SearchIndex | None,
    progress: bool,
) -> None:
    """Writes the index, whole or not at all. What `old` has of files that are unchanged is copied from it."""
    ids = store.ids()
    kept = {} if old is None else _unchanged(ids, stamps, old)
    counts = np.array([_rows(store, video_id, embedder, old, kept.get(video_id)) for video_id in ids])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = {video_id: (number, slice(*offsets[number : number + 2])) for number, video_id in enumerate(ids)}
    new = [video_id for video_id in ids if video_id not in kept]
    batches = [new[start : start + BATCH] for start in range(0, len(new), BATCH)]
    first = _embed(store, batches[0], embedder) if batches else []
    dim = first[0][0].shape[1] if first else old.dim  # type: ignore[union-attr]  # without new ones, all are old
    bar = tqdm(total=len(ids), initial=len(kept), unit="video", desc="index", disable=console.hides_bars(progress))
    require_room(file, 2 * dim * (int(offsets[-1]) + len(ids)))
    with bar, whole_file(file) as partial:
        # Slices are taken of np.asarray(a memmap), for those of a memmap itself are slow to make.
        vectors = open_memmap(partial, "w+", np.float16, (int(offsets[-1]) + len(ids), dim))
        frames, videos = np.split(np.asarray(vectors), [offsets[-1]])
        times = np.empty(len(frames), np.float32)
        for video_id, place in kept.items():
            assert old is not None
            number, rows = places[video_id]
            frames[rows], times[rows] = old.frames[old.rows(place)], old.times[old.rows(place)]
            videos[number] = old.videos[place]
        for turn, batch in enumerate(batches):
            embedded = _embed(store, batch, embedder) if turn else first
            for video_id, (vectors_of, seconds) in zip(batch, embedded, strict=True):
                if vectors_of.shape[1] != dim:
                    raise ClipcapError(
                        f"features of {video_id} in {store.path} are {vectors_of.shape[1]} wide, others {dim}; "
                        "extract all of them with one encoder"
                    )
                number, rows = places[video_id]
                frames[rows], times[rows], videos[number] = vectors_of, seconds, mean_vector(vectors_of)
            bar.update(len(batch))
        vectors.flush()
        said = "" if store.fingerprint is None else store.fingerprint.to_json()
        about = json.dumps({"version": VERSION, "fingerprint": said, "ids": ids}).encode()
        with partial.open("ab") as stream:
            for array in (offsets, times, stamps, np.frombuffer(about, np.uint8)):
                np.save(stream, array)


def _unchanged(ids: Sequence[str], stamps: np.ndarray, old: SearchIndex) -> dict[str, int]:
    """The videos whose files are those that `old` was made from, and their numbers in it."""
    before = {video_id: number for number, video_id in enumerate(old.ids)}
    return {
        video_id: before[video_id]
        for video_id, stamp in zip(ids, stamps, strict=True)
        if video_id in before and np.array_equal(stamp, old.stamps[before[video_id]])
    }


def _rows(
    store: FeatureStore, video_id: str, embedder: FrameEmbedder, old: SearchIndex | None, place: int | None
) -> int:
    """Rows of a video in the index. place: its number in `old`, where it is unchanged."""
    if old is not None and place is not None:
        return int(old.offsets[place + 1] - old.offsets[place])
    frames = store.shape(video_id).frames
    return frames if embedder.max_frames is None else min(frames, embedder.max_frames)


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


def read_index(file: Path) -> SearchIndex | None:
    """The index in `file`; None where there is none, or not a whole one."""
    if kind_of(file) != "file":
        return None
    try:
        # One open file throughout, for another process may put a new one in its place.
        with file.open("rb") as stream:
            read_magic(stream)
            shape, _, dtype = read_array_header_1_0(stream)
            mapped = np.memmap(stream, dtype, "r", stream.tell(), shape)
            stream.seek(mapped.offset + mapped.nbytes)
            offsets, times, stamps, about = (np.load(stream) for _ in range(4))
        said = json.loads(about.tobytes())
        if said["version"] != VERSION:
            return None
        frames, videos = np.split(np.asarray(mapped), [offsets[-1]])
        fingerprint = Fingerprint.from_json(said["fingerprint"]) if said["fingerprint"] else None
        ids = said["ids"]
        shapes = [offsets.shape, times.shape, stamps.shape, videos.shape[:1]]
        if shapes != [(len(ids) + 1,), frames.shape[:1], (len(ids), 2), (len(ids),)] or (np.diff(offsets) < 0).any():
            return None
        return SearchIndex(file, ids, frames, videos, offsets, times, stamps, fingerprint)
    except Exception:  # whatever is thrown at a damaged file
        return None
