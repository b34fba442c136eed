"""Runs over several processes and nodes, which torchrun starts and gloo joins, against runs of one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import train
from tests.conftest import TinyProject
from tests.training.distributed import gradients

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def common(project: TinyProject, out: Path) -> dict[str, Any]:
    return {
        "data": str(project.data), "caption": [str(project.caption)], "out_dir": str(out), "precision": "fp32",
        "device": "cpu", "epochs": 1, "bs": 6, "lr": 1e-3, "dropout": 0.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def cases(tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Options of runs of all kinds, as two processes have them."""
    folder = tmp_path_factory.mktemp("distributed")
    # Without dropout of its own, which differs from process to process.
    lm = shutil.copytree(tiny_project.lm, folder / "lm")
    without = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    (lm / "config.json").write_text(json.dumps(json.loads((lm / "config.json").read_text()) | without))
    prefix = {"lm": str(lm), "only_prefix": True, "prefix_length": 4, "num_layers": 1}
    lstm = {"model": "lstm", "rnn_width": 32, "word_width": 16, "min_count": 1}
    made: dict[str, dict[str, Any]] = {"prefix xe": prefix, "lstm xe": lstm}
    for name, options in list(made.items()):
        # Long enough to say something that is rewarded.
        learning = {"epochs": 10, "lr": 2e-2 if "model" in options else 5e-3, "eval_every": 0, "save_every": 0}
        learning |= {} if "model" in options else {"only_prefix": None, "lm_lr": 5e-3}
        trained = folder / name.split()[0]
        train(TrainConfig(**common(tiny_project, trained) | options | learning))
        kind = {"model": "lstm"} if "model" in options else {}
        made[name.replace("xe", "scst")] = {"objective": "scst", "init_from": str(trained / "best"), **kind}
    found = {name: common(tiny_project, folder / "out") | options for name, options in made.items()}
    for name in ("prefix scst", "lstm scst"):
        del found[name]["dropout"]
    retrieval = common(tiny_project, folder / "out") | {"text_encoder": "bag-of-words", "dim": 32}
    prompt = common(tiny_project, folder / "out") | prefix | {"predicted_words": 3, "memory": 2}
    return found | {"retrieval": retrieval, "prompt": prompt}


def of_one_process(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The same step: two batches one after the other; of retrieval, where each text meets all videos, one of both."""
    return options | ({"bs": 12} if name == "retrieval" else {"grad_accum": 2})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_one_process(tmp_path: Path, cases: dict[str, dict[str, Any]], nodes: int) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    place = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    started = [
        subprocess.Popen(
            [*TORCHRUN, *place, "--nnodes", str(nodes), "--node_rank", str(node), "--nproc_per_node", str(2 // nodes),
             str(ROOT / "tests/training/distributed.py"), str(tmp_path / "cases.json"), str(tmp_path / "found.pt")],
            env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )
        for node in range(nodes)
    ]  # fmt: skip
    expected = gradients({name: of_one_process(name, options) for name, options in cases.items()})
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert list(found) == list(expected)
    for name, weights in expected.items():
        assert weights.keys() == found[name].keys()
        assert any(value.abs().max() > 1e-4 for value in weights.values()), name
        for weight, value in weights.items():
            torch.testing.assert_close(found[name][weight], value, rtol=1e-4, atol=1e-6)


def rank_of(process: int) -> str | None:
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((one.decode()[5:] for one in variables if one.startswith(b"RANK=")), None)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_where_one_process_is_killed_all_end_with_a_sentence(tmp_path: Path, tiny_project: TinyProject) -> None:
    out = tmp_path / "out"
    options = ["train", "--features", tiny_project.data, "--annotations", tiny_project.caption, "--out", out]
    options += ["--lm", tiny_project.lm, "--only_prefix", "--prefix_length", 4, "--num_layers", 1, "--epochs", 100_000]
    options += ["--eval_every", 0, "--save_every", 0, "--device", "cpu", "--bs", 6]
    command = list(map(str, [*TORCHRUN, "--standalone", "--nproc_per_node", 2, "-m", "clipcap_video", *options]))
    run = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (out / "last").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    (second,) = [int(worker) for worker in workers if rank_of(int(worker)) == "1"]
    os.kill(second, signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "error: another process of this run has ended" in said, said
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    # What was saved is whole, and belongs to two processes.
    alone = [sys.executable, "-m", "clipcap_video", *map(str, options), "--resume"]
    refused = subprocess.run(alone, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: the run in")
    assert "or on another number of processes; resume it with those" in refused.stderr
