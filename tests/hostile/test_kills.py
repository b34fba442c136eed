"""Runs that are killed at random moments, again and again: in the end they leave what an undisturbed run does."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.cli import main
from clipcap_video.models.checkpoint import save_checkpoint
from tests.captioning.test_long_videos import captioner  # noqa: F401  (a fixture)
from tests.clips import write_shots
from tests.hostile.test_hostile import Place, place  # noqa: F401  (a fixture)
from tests.tiny_clip import save_tiny_clip

# A server that has imported everything forks each run, which then begins at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["clipcap_video.training.run", "clipcap_video.captioning.captioner", __name__])

pytestmark = pytest.mark.slow


def _run(words: list[str]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.argv = ["clipcap-video", *words]
    main()


def _start(words: list[object]) -> multiprocessing.process.BaseProcess:
    process = FORKS.Process(target=_run, args=([str(word) for word in words],))
    process.start()
    return process


def killed_runs(
    words: Callable[[Path], list[object]], result: Callable[[Path], object], folder: Path, kills: int
) -> None:
    """Asserts that runs of the command into fresh places, each killed over and over, leave the same in the end.

    words: of the command that writes to a place. result: what is compared of it.
    """
    _start(["--version"]).join()  # the server has imported everything by then
    started = time.monotonic()
    whole = _start(words(folder / "whole"))
    whole.join()
    assert whole.exitcode in (0, 1)  # 1: a video among them cannot be read
    usual, expected = time.monotonic() - started, result(folder / "whole")
    assert expected
    chance, done, number = random.Random(0), 0, 0
    while done < kills:
        number += 1
        out = folder / f"killed{number}"
        while True:
            process = _start(words(out))
            process.join(chance.uniform(0, 1.2 * usual))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            done += 1
        assert process.exitcode == whole.exitcode, out
        assert result(out) == expected, out


def _weights(out: Path) -> dict[str, object]:
    """The checkpoints of a run, and what its log says but for times."""
    found: dict[str, object] = {
        str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("model.safetensors"))
    }
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return found | {"metrics": [{name: line[name] for name in line if "second" not in name} for line in lines]}


def test_extraction(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    save_tiny_clip(tmp_path / "clip.pt")
    for number in range(12):
        write_shots(tmp_path / "clips" / f"video{number}.mp4", [10])
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video" * 100)

    def result(out: Path) -> dict[str, bytes]:
        files = [file for file in sorted(out.iterdir()) if file.suffix in (".safetensors", ".jsonl")]
        return {file.name: file.read_bytes() for file in files}

    killed_runs(
        lambda out: ["extract", "--videos", tmp_path / "clips", "--encoder", tmp_path / "clip.pt", "--frames", 4,
                     "--out", out],
        result, tmp_path, 100,
    )  # fmt: skip


KINDS = {
    "prefix": ["--lm", "LM", "--num_layers", 1, "--prefix_length", 3],
    "lstm": ["--model", "lstm", "--rnn_width", 16, "--word_width", 8, "--head_width", 8, "--min_count", 1],
    "average": ["--lm", "LM", "--only_prefix", "--num_layers", 1, "--prefix_length", 3, "--average", 0.9],
}


@pytest.mark.parametrize("kind", KINDS)
def test_training(place: Place, tmp_path: Path, kind: str) -> None:  # noqa: F811
    more = [place.lm if word == "LM" else word for word in KINDS[kind]]
    killed_runs(
        lambda out: ["train", "--data", place.data, "--caption", place.caption, "--out_dir", out, "--epochs", 4,
                     "--bs", 6, "--device", "cpu", "--precision", "fp32", "--resume", *more],
        _weights, tmp_path, 50,
    )  # fmt: skip


def test_caption(captioner: Captioner, tmp_path: Path) -> None:  # noqa: F811
    model = tmp_path / "model"
    save_checkpoint(model, captioner.model, captioner.info)
    clip = write_shots(tmp_path / "talk.mp4", [30] * 12)

    def result(out: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(out.glob("talk.*")) if file.suffix != ".yaml"}

    killed_runs(
        lambda out: ["caption", clip, "--model_dir", model, "--bs", 2, "--jsonl", "--out_dir", out],
        result, tmp_path, 20,
    )  # fmt: skip
