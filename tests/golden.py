"""Recorded checkpoints and outputs of the ClipCap programs; see tests/data/golden/README.md."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipcap_video.features.layouts import open_features
from clipcap_video.models.legacy import LegacyChoices

ARCHIVES = Path(__file__).parent / "data" / "golden"


def unpack(folder: Path, archive_name: str = "clipcap-programs") -> Path:
    """The recorded files of an archive, unpacked into `folder`."""
    with tarfile.open(ARCHIVES / f"{archive_name}.tar.xz") as archive:
        # The keyword came with security releases of every Python version in use.
        archive.extractall(folder, filter="data")
    return folder


@dataclass(frozen=True)
class Recorded:
    """One checkpoint with what its program made of each video or picture.

    features: [T, D] each; prefix: [N, P, E]; beam: five texts of each, best first; greedy: one text of each.
    """

    checkpoint: Path
    lm: Path
    ids: list[str]
    features: list[np.ndarray]
    prefix: np.ndarray
    beam: list[list[str]]
    greedy: list[str]
    entry_length: int
    settings: dict


def recorded(golden: Path, name: str) -> Recorded:
    """name: a program and a model, such as msrvtt-clipcap/mlp."""
    program, _, model = name.partition("/")
    folder = golden / program / model
    expected = json.loads((folder / "expected.json").read_text())
    if program == "msrvtt-clipcap":
        store = open_features(golden / program / "features.hdf5")
        ids = store.ids()
        features = [store.load(video_id).features for video_id in ids]
        beam, greedy = ([expected[mode][video_id] for video_id in ids] for mode in ("beam", "greedy"))
        settings = {"cross": model == "cross", "normalize_prefix": False}
    else:
        vectors = np.load(folder / "features.npy")
        ids, features = [f"picture{number}" for number in range(len(vectors))], list(vectors[:, None])
        beam, greedy, settings = expected["beam"], expected["greedy"], expected
    return Recorded(
        checkpoint=next(folder.glob("*.pt")),
        lm=golden / program / "gpt2-tiny",
        ids=ids,
        features=features,
        prefix=np.load(folder / "prefix.npy"),
        beam=beam,
        greedy=greedy,
        entry_length=10 if program == "msrvtt-clipcap" else 12,
        settings=settings,
    )


def choices(case: Recorded) -> LegacyChoices:
    return LegacyChoices(cross=case.settings.get("cross", False), normalize_prefix=case.settings["normalize_prefix"])
