"""The layouts in which features lie on disk, told apart by what is at a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.hdf5 import HDF5_SUFFIXES, HDF5Store, write_hdf5
from clipcap_video.features.shards import SHARD_MB, ParquetStore, write_shards
from clipcap_video.features.shards import SUFFIX as PARQUET
from clipcap_video.features.store import SUFFIX, NumpyStore, SafetensorsStore, write_features
from clipcap_video.files import url_of


def open_features(path: str | Path) -> FeatureStore:
    """The feature store at `path`: a folder of .safetensors, .parquet or .npy files, or an .hdf5 file.

    Raises ClipcapError when nothing is there or its layout is unknown.
    """
    path = Path(path)
    if url_of(path) is not None:
        remote = ParquetStore(path)
        if not remote.files:
            raise ClipcapError(f"no features at {url_of(path)}; a URL is to name a folder of .parquet files")
        return remote
    if not path.exists():
        raise ClipcapError(f"no features at {path}; make them with extract_features.py --videos DIR --out {path}")
    if path.is_file():
        if path.suffix in HDF5_SUFFIXES:
            return HDF5Store(path)
        raise ClipcapError(f"{path} is not a feature store; give a folder of features or an .hdf5 file")
    if any(path.glob(f"*{SUFFIX}")):
        return SafetensorsStore(path)
    if any(path.glob(f"*{PARQUET}")):
        return ParquetStore(path)
    if any(path.glob("*.npy")):
        return NumpyStore(path)
    raise ClipcapError(f"no features in folder {path}; make them with extract_features.py --videos DIR --out {path}")


def convert_features(store: FeatureStore, out: Path, layout: str, shard_mb: float = SHARD_MB) -> int:
    """Writes all features of `store` to `out` in another layout. Returns the number of videos.

    layout: safetensors, parquet or hdf5. shard_mb: megabytes of a Parquet file.
    Raises ClipcapError when that layout cannot say what this one does not know.
    """
    if layout == "hdf5":
        return write_hdf5(store, out)
    if layout == "parquet":
        before = list(out.glob(f"*{PARQUET}"))
        count = write_shards(store, out, shard_mb)
        for file in before:  # of an earlier conversion
            file.unlink()
        return count
    if store.fingerprint is None:
        raise ClipcapError(
            f"the features in {store.path} do not say how they were made, which .safetensors files must; "
            "convert them with --format parquet"
        )
    out.mkdir(parents=True, exist_ok=True)
    for video_id in store.ids():
        video = store.load(video_id)
        times = np.arange(len(video.features)) if video.timestamps is None else video.timestamps
        write_features(out, video_id, video.features, times, store.fingerprint, store.origin(video_id))
    return len(store.ids())
