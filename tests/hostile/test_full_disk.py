"""Every command that writes, on a disk that fills up: one sentence, nothing whole is lost, and the rerun goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.clips import write_shots
from tests.hostile.test_hostile import Place, place  # noqa: F401  (a fixture)
from tests.tiny_clip import save_tiny_clip

COMMANDS = {
    "extract": ["--videos", "CLIPS", "--encoder", "CLIP", "--frames", "4", "--out", "DISK/features"],
    "extract-hdf5": ["--videos", "CLIPS", "--encoder", "CLIP", "--format", "hdf5", "--out", "DISK/f.hdf5"],
    "train": ["--data", "DATA", "--lm", "LM", "--caption", "CAPTION", "--out_dir", "DISK/out", "--epochs", "2",
              "--only_prefix", "--num_layers", "1", "--eval_every", "0", "--save_every", "0", "--resume"],
    "train-lstm": ["--model", "lstm", "--data", "DATA", "--caption", "CAPTION", "--out_dir", "DISK/out", "--epochs",
                   "2", "--rnn_width", "16", "--word_width", "8", "--head_width", "8", "--min_count", "1",
                   "--eval_every", "0", "--save_every", "0", "--resume"],
    "infer": ["--model_dir", "MODEL", "--data", "DATA", "--out", "DISK/p.json"],
    "evaluate": ["--predictions", "PREDICTIONS", "--caption", "CAPTION", "--split", "test", "--allow_missing",
                 "--out", "DISK/s.json"],
    "report": ["PREDICTIONS", "--out", "DISK/page.html"],
    "search": ["--like", "video3", "--features", "DATA", "--index_dir", "DISK/index"],
    "new-lm": ["--caption", "CAPTION", "--out", "DISK/lm", "--layers", "1", "--width", "16", "--heads", "2"],
    "pack": ["--model_dir", "MODEL", "--out", "DISK/packed"],
    "doctor": ["--data", "DATA", "--caption", "CAPTION", "--json", "DISK/d.json"],
    "train-consensus": ["--model_dir", "DISK/model", "--data", "DATA", "--caption", "CAPTION", "--epochs", "1",
                        "--networks", "1", "--hidden", "16"],
}  # fmt: skip


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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("infer", "new-lm") else pytest.mark.slow) for name in COMMANDS]
)
def test_a_disk_that_fills_up(place: Place, tmp_path: Path, name: str) -> None:  # noqa: F811
    disk = tmp_path / "disk"
    predictions = tmp_path / "predictions.json"
    predictions.write_text('{"version": 1, "predictions": [{"video": "video30", "captions": [{"text": "a man"}]}]}')
    known = {
        "DATA": place.data, "LM": place.lm, "CAPTION": place.caption, "MODEL": place.model,
        "PREDICTIONS": predictions, "CLIPS": tmp_path / "clips", "CLIP": tmp_path / "clip.pt",
    }  # fmt: skip
    if name.startswith("extract"):
        (tmp_path / "clips").mkdir()
        save_tiny_clip(tmp_path / "clip.pt")
        for number in range(6):
            write_shots(tmp_path / "clips" / f"video{number}.mp4", [10])
    words = [str(known.get(word, word)).replace("DISK", str(disk)) for word in COMMANDS[name]]
    size, refused = 4096, 0
    with small_disk(disk, 2**26):
        (disk / "stranger").write_text("mine")
        if name == "train-consensus":
            shutil.copytree(place.model, disk / "model")
        used = shutil.disk_usage(disk).used
        while True:
            subprocess.run(["mount", "-o", f"remount,size={used + size}", str(disk)], check=True)
            before = whole_files(disk)
            done = run("clipcap-video", name.partition("-")[0] if name in PARTS else name, *words)
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
            refused, size = refused + 1, size * 2
            assert size < 2**26, shown
    assert refused


PARTS = ("extract-hdf5", "train-lstm")
# What a rerun may not change any more once it is there.
KEPT = {"stranger", "p.json", "lm/config.json", "packed/config.json"}


def whole_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
