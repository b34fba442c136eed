"""Features of an earlier decoder, of videos that it read wrongly, are named with the command that makes them again."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.doctor import examine
from clipcap_video.features.base import Origin
from clipcap_video.features.store import read_origin, write_features
from clipcap_video.video.damage import Damage
from clipcap_video.video.decoder import DECODER
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import write_clip
from tests.tiny import features_of, fingerprint
from tests.video.corpus import MPEG2, WOVEN, X264, Case

WRONG = {
    "fields": (Case("fields.mpg", f"{MPEG2} {WOVEN} -field_order tt", frames=6), "interlaced"),
    "reordered": (Case("reordered.avi", X264, frames=12), "tells times of decoding"),
    "front": (
        Case("f.mp4", X264, frames=6, copies=(("-display_hflip", "", "front.mp4"),)), "mirrored by its display matrix",
    ),
    "wide": (Case("wide.mp4", f"{X264} -vf setsar=2", frames=6), "pixels are not square"),
}  # fmt: skip


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for case, _ in WRONG.values():
        path = case.make(tmp_path)
        path.rename(folder / path.name)
    write_clip(folder / "plain.mp4")
    return folder


def store(folder: Path, names: list[str], sampling: str = "uniform", origin: Origin | None = None) -> Path:
    folder.mkdir()
    kind = fingerprint(sampling=SamplingSpec(sampling))
    for number, name in enumerate(names):
        write_features(folder, name, features_of(number), np.arange(len(features_of(number))), kind, origin)
    return folder


def old(videos: Path, data: Path) -> tuple[dict[str, str], list[str]]:
    result = examine([videos], data=data, progress=False)
    found = {one.subject: one.message for one in result.findings if one.kind == "old_features"}
    return found, [note for note in result.notes if "clipcap-video extract" in note]


def test_those_that_were_read_wrongly_are_named(videos: Path, tmp_path: Path) -> None:
    found, notes = old(videos, store(tmp_path / "before", [*WRONG, "plain"]))
    assert set(found) == set(WRONG)
    for name, (_, kind) in WRONG.items():
        assert found[name].endswith(kind)
    (note,) = notes
    words = shlex.split(note.partition(": ")[2])
    assert words[:2] == ["clipcap-video", "extract"]
    assert "--overwrite" in words
    assert {Path(word).stem for word in words if word.startswith(str(videos))} == set(WRONG)


def test_those_of_this_decoder_are_not(videos: Path, tmp_path: Path) -> None:
    origin = Origin(DECODER, Damage(frames=6))
    data = store(tmp_path / "after", [*WRONG, "plain"], origin=origin)
    assert old(videos, data) == ({}, [])
    assert read_origin(data / "plain.safetensors") == origin


def test_the_reference_program_sees_the_same_pictures_as_ever(videos: Path, tmp_path: Path) -> None:
    found, _ = old(videos, store(tmp_path / "reference", [*WRONG, "plain"], sampling="reference"))
    assert set(found) == {"reordered"}
