"""Every benchmark runs, at its smallest size. Its figures are nobody's business here."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.clips import write_clip

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALLEST = {
    "alternatives.py": "--reference_layers 1 --busy 0",
    "decoding.py": "--videos 2 --reference_videos 1 --precision bf16 --busy 0 1",
    "extraction.py": "--videos CLIPS --repeat 1 --skip_reference --busy 0",
    "growth.py": "--counts 4 8 --minutes 0.05 0.1",
    "ivf_search.py": "--folder WORK --frames 20000",
    "lanes.py": "--count 2 --precision bf16 --busy 0 1",
    "million_videos.py": "--folder WORK --videos 20",
    "ray_extraction.py": "--videos CLIPS --copies 12 --busy 0",
    "retrieval_step.py": "--bs 1 --max_frames 1 --steps 1 --precision bf16 --busy 0",
    "search.py": "--folder WORK --videos 20 --busy 0",
    "serving.py": "--videos CLIPS --requests 2 --parallel 1 --busy 0",
    "training.py": "--videos 1 --rows 20 --steps 1 --mode only_prefix --busy 0",
    "waiting.py": "--only help one_clip --busy 0",
}
NEEDS = {"ivf_search.py": "faiss", "million_videos.py": "pyarrow", "ray_extraction.py": "ray", "serving.py": "fastapi"}
# They read what a training made of real data: their own pages say how.
OF_RUNS = {"evidence.py", "learning_curves.py", "retrieval_heads.py"}


def test_each_benchmark_is_here() -> None:
    assert {file.name for file in FOLDER.glob("*.py")} == {*SMALLEST, *OF_RUNS, "common.py", "compare.py"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs(name: str, tmp_path: Path) -> None:
    if find_spec(NEEDS.get(name, "torch")) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(2):
        write_clip(clips / f"clip{number}.mp4", 30)
    places = {"CLIPS": str(clips), "WORK": str(tmp_path / "work")}
    arguments = [places.get(word, word) for word in SMALLEST[name].split()]
    done = subprocess.run([sys.executable, FOLDER / name, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout


@pytest.mark.slow
def test_two_revisions_are_compared(tmp_path: Path) -> None:
    command = [
        FOLDER / "compare.py",
        "HEAD",
        "lanes.py",
        "--count",
        "2",
        "--precision",
        "bf16",
        "--busy",
        "0",
        "--pairs",
        "1",
    ]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "median of 1, idle: starter, bf16, videos/s" in done.stdout
