"""What the tests of this room share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def magic() -> dict[str, dict[str, list[str]]]:
    return json.loads((DATA / "flickr30k-magic.json").read_text(encoding="utf-8"))
