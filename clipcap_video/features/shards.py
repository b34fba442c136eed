"""Frame features in Parquet files that hold thousands of videos each: `datasets`, DuckDB and Ray read them too.

`<folder>/<time>-<random>.parquet` has a row a video and the columns of `schema`, whose metadata carries the
fingerprint. A file is whole or not there, and never changed: what is added later is in new files, of which the last
holds for a video that is in several. Row groups are small, for one is read whole to get at a single video.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clipcap_video.errors import ClipcapError, first_line
from clipcap_video.features.base import FeatureShape, FeatureStore, Origin, VideoFeatures, checked
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import remote_files, sorted_ids, url_of, whole_file
from clipcap_video.video.damage import Damage

SUFFIX = ".parquet"
FINGERPRINT = b"fingerprint"
SHARD_MB = 256
# Bytes of features in a row group: some 18 videos of 28 frames, 512 wide.
GROUP_BYTES = 2**19
# Row groups of a store that are kept in memory.
GROUPS_KEPT = 64
# A run that is killed loses what it has not written: no more than it made in so long.
SHARD_SECONDS = 600


def require_pyarrow() -> Any:
    """The module pyarrow. Raises ClipcapError, with the command that installs it, when it is missing."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ClipcapError("Parquet needs pyarrow; pip install 'clipcap-video[parquet]'") from None
    return pyarrow


def schema(dim: int, fingerprint: Fingerprint | None) -> Any:
    """Of features that are `dim` wide. A video that cannot be read has an error, 0 frames and no features."""
    pa = require_pyarrow()
    columns = {
        "video_id": pa.string(),
        "frames": pa.int32(),
        "features": pa.list_(pa.list_(pa.float16(), dim)),  # [T, D]
        "timestamps": pa.list_(pa.float32()),  # [T], seconds
        "decoder": pa.string(),
        "damage": pa.string(),  # JSON
        "error": pa.string(),
    }
    said = None if fingerprint is None else {FINGERPRINT: fingerprint.to_json().encode()}
    return pa.schema(list(columns.items()), metadata=said)


def shard_files(path: Path) -> list[Path]:
    """The shards in a folder, here or at a URL; the last written last."""
    url = url_of(path)
    if url is None:
        return sorted(path.glob(f"*{SUFFIX}"))
    with remote_files(url) as (system, place):
        names = system.find(place, maxdepth=1) if system.exists(place) else []
    return sorted(path / Path(name).name for name in names if str(name).endswith(SUFFIX))


class ShardWriter:
    """Adds videos to a store, in files of about `shard_mb` megabytes. A context manager: leaving it, in whatever way,
    puts what was added in its place."""

    def __init__(self, out: Path, dim: int, fingerprint: Fingerprint | None, shard_mb: float = SHARD_MB) -> None:
        self.out = out
        self._schema = schema(dim, fingerprint)
        self._dim = dim
        self._most = shard_mb * 2**20
        self._rows: list[dict[str, Any]] = []
        self._waiting = self._written = 0  # bytes
        self._begun = 0.0
        self._file: Any = None
        self._open = ExitStack()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add(
        self, video_id: str, features: np.ndarray, timestamps: np.ndarray | None, origin: Origin | None = None
    ) -> None:
        """features: [T, D]; timestamps: [T] in seconds, None where they are not known."""
        origin = origin or Origin()
        damage = None if origin.damage is None else json.dumps(origin.damage.to_json())
        times = None if timestamps is None else timestamps.astype(np.float32)
        values = np.ascontiguousarray(features, dtype=np.float16)
        self._add(values, video_id=video_id, timestamps=times, decoder=origin.decoder, damage=damage, error=None)

    def fail(self, video_id: str, reason: str) -> None:
        """Notes why a video has no features."""
        none = np.empty((0, self._dim), np.float16)
        self._add(none, video_id=video_id, timestamps=None, decoder=None, damage=None, error=reason)

    def _add(self, values: np.ndarray, **row: Any) -> None:
        self._begun = self._begun or time.monotonic()
        self._rows.append({"features": values, "frames": len(values), **row})
        self._waiting += values.nbytes
        if self._waiting >= GROUP_BYTES:
            self._write_group()
        if self._written + self._waiting >= self._most or time.monotonic() - self._begun > SHARD_SECONDS:
            self.close()

    def _write_group(self) -> None:
        pa, rows = require_pyarrow(), self._rows
        if self._file is None:
            name = f"{time.time_ns() // 1000:017d}-{secrets.token_hex(4)}{SUFFIX}"
            partial = self._open.enter_context(whole_file(self.out / name))
            self._file = self._open.enter_context(
                pa.parquet.ParquetWriter(
                    partial, self._schema, compression="none", use_dictionary=False, write_statistics=["video_id"]
                )
            )
        flat = np.concatenate([row["features"] for row in rows])  # [frames of all, D]
        frames = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), self._dim)
        counts = np.array([row["frames"] for row in rows])
        failed = pa.array([row["error"] is not None for row in rows])
        ends = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        arrays = [
            pa.ListArray.from_arrays(ends, frames, mask=failed)
            if field.name == "features"
            else pa.array([row[field.name] for row in rows], field.type)
            for field in self._schema
        ]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(rows))
        self._written += self._waiting
        self._rows, self._waiting = [], 0

    def close(self) -> None:
        """Puts what was added in its place. Raises ClipcapError when it cannot be written."""
        try:
            with self._open:
                if self._rows:
                    self._write_group()
        except OSError as error:
            raise ClipcapError(
                f"cannot write features to {self.out} ({first_line(error)}); choose another --out"
            ) from None
        finally:
            self._file, self._begun, self._written, self._rows, self._waiting = None, 0.0, 0, [], 0


def _values(groups: Sequence[Any]) -> int:
    """How many numbers the features in row groups have, by the file's metadata."""
    columns = (group.column(place) for group in groups for place in range(group.num_columns))
    return sum(column.num_values for column in columns if column.path_in_schema.startswith("features."))


class ParquetStore(FeatureStore):
    """The features in a folder of Parquet files. Ids and lengths are in memory, the rest is read by need.

    errors: why videos that have no features have none, by id.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = shard_files(path)
        self.errors: dict[str, str] = {}
        self._places: dict[str, tuple[int, int]] = {}  # id -> number of the file, row in it
        self._frames: list[np.ndarray] = []
        self._opened: list[Any] = []
        self._groups: list[np.ndarray] = []  # of each file, the first row of each row group and the number of rows
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self.dim = 0
        for number, file in enumerate(self.files):
            self._survey(number, file)
        self._ids = sorted_ids(self._places)

    def _survey(self, number: int, file: Path) -> None:
        try:
            opened = self._open(file)
            lacking = set(schema(1, None).names) - set(opened.schema_arrow.names)
            if lacking:
                raise ValueError(f"it lacks the column {min(lacking)}")
            columns = opened.read(["video_id", "frames", "error"]).to_pydict()
            said = (opened.schema_arrow.metadata or {}).get(FINGERPRINT)
            fingerprint = None if said is None else Fingerprint.from_json(said.decode())
            dim = opened.schema_arrow.field("features").type.value_type.list_size
            groups = [opened.metadata.row_group(group) for group in range(opened.metadata.num_row_groups)]
            frames = np.array(columns["frames"], np.int64)
            if not all(isinstance(video_id, str) and video_id for video_id in columns["video_id"]):
                raise ValueError("a video has no id")
            if frames.ndim != 1:
                raise ValueError("its numbers of frames are none")
            if len(frames) and (frames.min() < 0 or frames.sum() * dim > _values(groups)):
                raise ValueError("it has fewer features than it says")
        except ClipcapError:
            raise
        except Exception as error:  # whatever the reader throws at a damaged file
            raise ClipcapError(
                f"{file} is not a whole shard of features ({first_line(error)}); delete it and extract again"
            ) from None
        if number and (fingerprint != self.fingerprint or dim != self.dim):
            raise ClipcapError(
                f"features of two kinds in {self.path}: {file.name} is {fingerprint}, {dim} wide, others are "
                f"{self.fingerprint}, {self.dim} wide; extract them into separate folders"
            )
        self.fingerprint, self.dim = fingerprint, dim
        self._opened.append(opened)
        self._groups.append(np.concatenate([[0], np.cumsum([group.num_rows for group in groups])]))
        self._frames.append(frames.astype(np.int32))
        for row, (video_id, reason) in enumerate(zip(columns["video_id"], columns["error"], strict=True)):
            if reason is None:
                self._places[video_id] = number, row
                self.errors.pop(video_id, None)
            elif video_id not in self._places:
                self.errors[video_id] = reason

    def _open(self, file: Path) -> Any:
        pa, url = require_pyarrow(), url_of(file)
        if url is None:
            return pa.parquet.ParquetFile(file, memory_map=True)
        with remote_files(url) as (system, place):
            return pa.parquet.ParquetFile(system.open(place, "rb"), pre_buffer=True)

    def ids(self) -> list[str]:
        return self._ids

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._places

    def file(self, video_id: str) -> Path:
        return self.files[self._place(video_id)[0]]

    def shape(self, video_id: str) -> FeatureShape:
        number, row = self._place(video_id)
        return FeatureShape(int(self._frames[number][row]), self.dim)

    def load(self, video_id: str) -> VideoFeatures:
        group, row = self._group(video_id)
        with self._at(video_id):
            frames = group["features"][row].values
            features = frames.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim)
            times = group["timestamps"][row].values
            timestamps = None if times is None else times.to_numpy(zero_copy_only=False)
        return checked(features, timestamps, f"{self.file(video_id)}: {video_id}")

    def origin(self, video_id: str) -> Origin:
        group, row = self._group(video_id)
        with self._at(video_id):
            damage = group["damage"][row].as_py()
            known = None if damage is None else Damage.from_json(json.loads(damage))
            return Origin(group["decoder"][row].as_py(), known)

    def load_many(self, video_ids: Sequence[str]) -> list[VideoFeatures]:
        # In the order of the file, so that a row group is read once.
        loaded = {video_id: self.load(video_id) for video_id in sorted(set(video_ids), key=self._place)}
        return [loaded[video_id] for video_id in video_ids]

    def _place(self, video_id: str) -> tuple[int, int]:
        if video_id not in self._places:
            raise self._missing(video_id)
        return self._places[video_id]

    def _group(self, video_id: str) -> tuple[dict[str, Any], int]:
        """The columns of the row group with a video, and its row in it."""
        number, row = self._place(video_id)
        group = int(np.searchsorted(self._groups[number], row, side="right")) - 1
        if (number, group) not in self._kept:
            with self._at(video_id):
                table = self._opened[number].read_row_group(group)
                self._kept[number, group] = {name: table[name].combine_chunks() for name in table.column_names}
            while len(self._kept) > GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end((number, group))
        return self._kept[number, group], row - int(self._groups[number][group])

    @contextmanager
    def _at(self, video_id: str) -> Iterator[None]:
        """The boundary of one video's entry: whatever the reader throws at it is one sentence."""
        try:
            yield
        except Exception as error:
            raise ClipcapError(
                f"{self.file(video_id)} is damaged at {video_id} ({first_line(error)}); delete it and extract again"
            ) from None


def write_shards(store: FeatureStore, out: Path, shard_mb: float = SHARD_MB) -> int:
    """Adds all features of `store` to the folder `out`. Returns the number of videos."""
    out.mkdir(parents=True, exist_ok=True)
    ids = store.ids()
    with ShardWriter(out, store.shape(ids[0]).dim, store.fingerprint, shard_mb) as writer:
        for video_id in ids:
            video = store.load(video_id)
            if video.features.shape[1] != store.shape(ids[0]).dim:
                raise ClipcapError(
                    f"features of {video_id} in {store.path} are {video.features.shape[1]} wide and those of {ids[0]} "
                    f"{store.shape(ids[0]).dim}; convert them apart"
                )
            writer.add(video_id, video.features, video.timestamps, store.origin(video_id))
    return len(ids)
