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
from tests.captioning.conftest import captioner  # noqa: F401  (a fixture)
from tests.clips import write_shots
from tests.hostile.writers import WRITERS, Workshop, workshop  # noqa: F401  (a fixture)

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


def _dying(words: list[str], number: int, after: bool) -> None:
    """Runs a command that is gone with its `number`-th rename, before or after that."""
    rename, left = os.replace, [number]

    def replace(source: Path, target: Path) -> None:
        left[0] -= 1
        if not left[0] and not after:
            os._exit(9)
        rename(source, target)
        if not left[0]:
            os._exit(9)

    os.replace = replace  # type: ignore[assignment]
    _run(words)


# What is packed has no record, and watch appends.
@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("pack", "watch")])
def test_gone_with_each_rename(workshop: Workshop, tmp_path: Path, name: str) -> None:  # noqa: F811
    """Wherever it is, the same command is not refused what it wrote itself."""
    _start(["--version"]).join()
    number = 0
    while True:
        number += 1
        for after in (False, True):
            words = workshop.words(name, tmp_path / f"{number}{after}")
            (tmp_path / f"{number}{after}").mkdir(exist_ok=True)
            process = FORKS.Process(target=_dying, args=(words, number, after))
            process.start()
            process.join()
            died = process.exitcode == 9
            if died:
                process = _start(words)
                process.join()
            assert process.exitcode in ((0, 1) if name == "doctor" else (0,)), (number, after, words)
        if not died:
            break
    assert number > 1


def _weights(out: Path) -> dict[str, object]:
    """The checkpoints of a run, and what its log says but for times."""
    found: dict[str, object] = {
        str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("model.safetensors"))
    }
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return found | {"metrics": [{name: line[name] for name in line if "second" not in name} for line in lines]}


def test_extraction(workshop: Workshop, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "clips").mkdir()
    for number in range(12):
        write_shots(tmp_path / "clips" / f"video{number}.mp4", [10])
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video" * 100)

    def result(out: Path) -> dict[str, bytes]:
        files = [file for file in sorted(out.iterdir()) if file.suffix in (".safetensors", ".jsonl")]
        return {file.name: file.read_bytes() for file in files}

    words = workshop.read("extract CLIPS --encoder CLIP --frames 4 --out").split()
    words[1] = str(tmp_path / "clips")
    killed_runs(lambda out: [*words, out], result, tmp_path, 100)


KINDS = {
    "prefix": "train:prefix",
    "average": "train:prefix --average 0.9",
    "lstm": "train:lstm",
    "contrastive": "train:contrastive",
    "scst": "train:scst",
    "retrieval": "train-retrieval:features",
    "retrieval from videos": "train-retrieval:videos",
}


@pytest.mark.parametrize("kind", KINDS)
def test_training(workshop: Workshop, tmp_path: Path, kind: str) -> None:  # noqa: F811
    name, *more = KINDS[kind].split()
    killed_runs(
        lambda out: [*workshop.words(name, out), "--epochs", 4, *more], lambda out: _weights(out / "out"), tmp_path, 50
    )


def test_consensus(workshop: Workshop, tmp_path: Path) -> None:  # noqa: F811
    killed_runs(
        lambda out: workshop.words("train-consensus", out),
        lambda out: (out / "model" / "consensus.safetensors").read_bytes(), tmp_path, 50,
    )  # fmt: skip


def test_inference(workshop: Workshop, tmp_path: Path) -> None:  # noqa: F811
    """Captions of videos, with subtitles beside them and a table, from wherever it was."""

    def result(out: Path) -> dict[str, bytes]:
        return {
            str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.*")) if file.suffix != ".yaml"
        }

    killed_runs(lambda out: [*workshop.words("infer:beside", out), "--to", "json"], result, tmp_path, 20)


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
