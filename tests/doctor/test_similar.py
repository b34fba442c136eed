"""Groups of videos that look much the same, by the features that are there."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.doctor import similar
from clipcap_video.doctor.similar import group
from clipcap_video.features.store import write_features
from tests.commands import refused, run
from tests.tiny import fingerprint


def plain_groups(features: list[np.ndarray], threshold: float) -> list[set[int]]:
    """Pair by pair, joining sets until nothing changes."""
    means = [video.mean(0) / np.linalg.norm(video.mean(0)) for video in features]
    sets = [{number} for number in range(len(features))]
    for one, other in itertools.combinations(range(len(features)), 2):
        if means[one] @ means[other] >= threshold:
            joined = [part for part in sets if one in part or other in part]
            sets = [part for part in sets if part not in joined] + [set().union(*joined)]
    return [part for part in sets if len(part) > 1]


@pytest.mark.parametrize("chunk", [3, 1024])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_those_of_all_pairs(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "CHUNK", chunk)
    random = np.random.default_rng(seed)
    centres = random.normal(size=(6, 8))
    features = [
        (centres[random.integers(6)] + 0.3 * random.normal(size=(random.integers(1, 5), 8))).astype(np.float32)
        for _ in range(25)
    ]
    found = group(features, 0.97)
    assert [set(members) for members, _ in found] == sorted(plain_groups(features, 0.97), key=min)
    assert all(0.97 <= least <= 1.0001 for _, least in found)
    assert any(len(members) > 2 for members, _ in found)


def test_few_videos_and_features_of_zeros() -> None:
    assert group([], 0.9) == group([np.ones((1, 4), np.float32)], 0.9) == []
    assert group([np.zeros((2, 4), np.float32)] * 2, 0.9) == []


def test_the_command(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    first, other = random.normal(size=(2, 6, 16)).astype(np.float32)
    for name, features in (
        ("a", first),
        ("b", first[1:] + 0.01),
        ("c", other),
        ("d", other[:3] - other[:3] + first[0]),
    ):
        write_features(tmp_path / "f", name, features, np.arange(len(features)), fingerprint())
    doctor = ["clipcap-video", "doctor", "--features", "f"]
    assert "nothing found" in run(*doctor, cwd=tmp_path).stdout
    done = run(*doctor, "--similar", "--json", "found.json", cwd=tmp_path)
    assert done.returncode == 0  # a warning
    (finding,) = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert (finding["kind"], finding["subject"]) == ("similar", "a")
    assert finding["message"].startswith("a, b (cosine 0.9")
    assert run(*doctor, "--similar", "--strict", cwd=tmp_path).returncode == 1
    assert "nothing found" in run(*doctor, "--similar", "--similarity", "1", cwd=tmp_path).stdout
    assert "--similar belongs to --features" in refused("clipcap-video", "doctor", ".", "--similar", cwd=tmp_path)
