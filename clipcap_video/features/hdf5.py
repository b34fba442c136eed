"""Features as the MSR-VTT ClipCap program's extractor leaves them: one HDF5 file, one dataset a video."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureShape, FeatureStore, VideoFeatures, checked, shape_2d
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import reading, require_room, sorted_ids, whole_file

HDF5_SUFFIXES = (".hdf5", ".h5")
FINGERPRINT = "fingerprint"  # attribute of an HDF5 file that we wrote


class HDF5Store(FeatureStore):
    """The layout of the MSR-VTT ClipCap repository: one dataset [T, D] a video at the top level."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        with reading(path, "the HDF5 file", "check the download"):
            self._file = h5py.File(path, "r")
            self._ids = sorted_ids(self._file.keys())
            if not self._ids:
                raise ClipcapError(f"{path} holds no datasets; expected one [frames, width] array a video")
            said = self._file.attrs.get(FINGERPRINT)
            self.fingerprint = None if said is None else Fingerprint.from_json(str(said))

    def ids(self) -> list[str]:
        return self._ids

    def file(self, video_id: str) -> Path:
        return self.path

    def shape(self, video_id: str) -> FeatureShape:
        if video_id not in self:
            raise self._missing(video_id)
        with reading(self.path, f"the features of {video_id} in", "extract again"):
            held = self._file[video_id]
            # No compression of HDF5 does better than a thousandth, and a data set that was never written has no bytes.
            if held.nbytes > 2000 * max(held.id.get_storage_size(), 1024):
                raise ValueError(f"it says that they have {held.nbytes / 1e9:.1f} GB, and holds next to none of them")
            return shape_2d(held.shape, self.path, video_id)

    def load(self, video_id: str) -> VideoFeatures:
        self.shape(video_id)
        with reading(self.path, f"the features of {video_id} in", "extract again"):
            return checked(np.asarray(self._file[video_id]), None, f"{self.path}: {video_id}")


def check_replaceable(out: Path, covered: Collection[str]) -> None:
    """Raises ClipcapError when writing `out` anew would lose features: of another program, or of videos not covered."""
    if not out.exists():
        return
    old = HDF5Store(out)
    lost = [video_id for video_id in old.ids() if video_id not in covered]
    if old.fingerprint is None or lost:
        reason = f"features of {len(lost)} other videos, such as {lost[0]}" if lost else "features of another program"
        raise ClipcapError(f"{out} holds {reason}; choose another --out, or replace it with --overwrite")


def write_hdf5(store: FeatureStore, out: Path) -> int:
    """Writes all features of `store` to `out`, whole or not at all, replacing what was there.

    Each video id names a float32 dataset [T, D], frames in order of time. The store's fingerprint becomes an attribute
    of the file, which that program does not look at. Returns the number of videos.
    """
    import h5py

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shapes = map(store.shape, store.ids())
        require_room(out, sum(4 * shape.frames * shape.dim + 512 for shape in shapes))
        with whole_file(out) as partial, h5py.File(partial, "w") as file:
            for video_id in store.ids():
                file.create_dataset(video_id, data=store.load(video_id).features)
            if store.fingerprint is not None:
                file.attrs[FINGERPRINT] = store.fingerprint.to_json()
    except OSError as error:
        raise ClipcapError(f"cannot write {out} ({error.strerror or error}); choose another --out") from None
    return len(store.ids())
