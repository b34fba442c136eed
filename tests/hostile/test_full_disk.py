"""Every command that writes, on a disk that fills up: one sentence, nothing whole is lost, and the rerun goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import run
from tests.hostile.writers import WRITERS, Workshop, workshop  # noqa: F401  (a fixture)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes in `folder`. Skips the test where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


QUICK = ("infer", "new-lm")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in WRITERS]
)
def test_a_disk_that_fills_up(workshop: Workshop, tmp_path: Path, name: str) -> None:  # noqa: F811
    disk = tmp_path / "disk"
    size, refused = 0 if name == "watch" else 4096, 0  # its lines are short
    with small_disk(disk, 2**28):
        words = workshop.words(name, disk)
        (disk / "stranger").write_text("mine")
        used = shutil.disk_usage(disk).used
        while True:
            subprocess.run(["mount", "-o", f"remount,size={used + size}", str(disk)], check=True)
            before = whole_files(disk)
            done = run("clipcap-video", *words)
            shown = f"{size} bytes: {done.stdout[-300:]}\n{done.stderr[-1500:]}"
            assert "Traceback" not in done.stderr, shown
            assert (disk / "stranger").read_text() == "mine"
            if done.returncode == 0 or (name == "doctor" and (disk / "d.run.yaml").exists()):
                break
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, shown
            assert "no room" in errors[0], shown
            after = whole_files(disk)
            assert all(after.get(file) == content for file, content in before.items() if file in KEPT), shown
            refused, size = refused + 1, size * 2 or 4096
            assert size < 2**28, shown
    assert refused


# What a rerun may not change any more once it is there.
KEPT = {"stranger", "p.json", "lm/config.json", "packed/config.json"}


def whole_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
