"""The layouts in which features lie on disk, told apart by what is at a path."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.hdf5 import HDF5_SUFFIXES, HDF5Store
from clipcap_video.features.store import SUFFIX, NumpyStore, SafetensorsStore


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
