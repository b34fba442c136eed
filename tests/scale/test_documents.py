"""The examples of docs/scale.md, run as they stand, and the classes without an engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import clips

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scale.md").read_text(), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["ray", "daft"])
def test_the_examples_run(tmp_path: Path, library: str) -> None:
    pytest.importorskip(library)
    (tmp_path / "clips").mkdir()
    for number in range(2):
        clips.write_clip(tmp_path / "clips" / f"video{number}.mp4", 5)
    (example,) = [text for text in EXAMPLES if f"import {library}\n" in text]
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if library == "ray":
        import pyarrow.parquet as parquet

        tables = [parquet.read_table(file) for file in (tmp_path / "features").glob("*.parquet")]
        assert sum(len(table) for table in tables) == 2
    else:
        assert "caption" in done.stdout
