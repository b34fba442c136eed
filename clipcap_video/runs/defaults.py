"""File names that the commands look for in the working folder when none are given.

Those of the MSR-VTT ClipCap program come first, in its data folder or beside it, so that its commands run as they
stand; ours follow.
"""

from __future__ import annotations

from pathlib import Path

PROGRAM_FEATURES = "MSRVTT_TRNVAL_CLIP_FEATURES.hdf5"
PROGRAM_ANNOTATIONS = "train_val_videodatainfo.json"
FEATURES, ANNOTATIONS = Path("features"), Path("videodatainfo.json")
_FOLDERS = (Path("CV_Project_Dataset"), Path("MSR_VTT"), Path())


def default_features() -> Path:
    """Features to use when no --features is given; they need not exist."""
    return _first(PROGRAM_FEATURES, FEATURES)


def default_annotations() -> Path:
    """Annotations to use when no --annotations is given; they need not exist."""
    return _first(PROGRAM_ANNOTATIONS, ANNOTATIONS)


def _first(name: str, otherwise: Path) -> Path:
    return next((folder / name for folder in _FOLDERS if (folder / name).is_file()), otherwise)
