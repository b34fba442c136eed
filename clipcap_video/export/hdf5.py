"""Features as the MSR-VTT ClipCap program's extractor leaves them: one HDF5 file, one dataset a video."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.features import FINGERPRINT, FeatureStore, open_features
from clipcap_video.files import whole_file


def check_replaceable(out: Path, covered: Collection[str]) -> None:
    """Raises ClipcapError when writing `out` anew would lose features: of another program, or of videos not covered."""
    if not out.exists():
        return
    old = open_features(out)
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
        with whole_file(out) as partial, h5py.File(partial, "w") as file:
            for video_id in store.ids():
                file.create_dataset(video_id, data=store.load(video_id).features)
            if store.fingerprint is not None:
                file.attrs[FINGERPRINT] = store.fingerprint.to_json()
    except OSError as error:
        raise ClipcapError(f"cannot write {out} ({error.strerror or error}); choose another --out") from None
    return len(store.ids())
