"""What came to the commands later, on inputs that nobody means: networks, Ray, shares, live sources, forms, search."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipcap_video.files import STARTER
from clipcap_video.models.checkpoint import CONSENSUS
from tests.clips import write_clip
from tests.commands import ROOT, run
from tests.hostile import inputs
from tests.hostile.test_hostile import SECONDS, Place, place, refuses, within  # noqa: F401  (a fixture)
from tests.tiny_clip import save_tiny_clip

# ruff: noqa: F811


@pytest.fixture(scope="module")
def network(place: Place, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A consensus network of the captioner."""
    model = tmp_path_factory.mktemp("ranked") / "model"
    shutil.copytree(place.model, model)
    words = ["--data", place.data, "--caption", place.caption, "--epochs", 1, "--networks", 1, "--hidden", 16]
    done = run("clipcap-video", "train-consensus", "--model_dir", model, *words, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return (model / CONSENSUS).read_bytes()


QUICK = ("ngrams_too_few", "unsure_below_high", "calibration_slope_nan", "header_longer_than_file")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name, _ in inputs.consensus_files(b"")],
)
def test_consensus_networks(place: Place, network: bytes, tmp_path: Path, name: str) -> None:
    """infer and pack refuse it, and the doctor finds it."""
    model = tmp_path / "model"
    shutil.copytree(place.model, model)
    (model / CONSENSUS).write_bytes(dict(inputs.consensus_files(network))[name])
    words = ["--model_dir", model, "--data", place.data]
    assert CONSENSUS in refuses(place, "infer", *words, "--out", tmp_path / "new.json")
    assert CONSENSUS in refuses(place, "pack", model, "--out", tmp_path / "new")
    with within(SECONDS):
        looked = run("clipcap-video", "doctor", "--model_dir", model)
    assert (looked.returncode, "consensus" in looked.stdout) == (1, True), looked.stdout + looked.stderr


def test_a_network_is_read_as_it_was_written(place: Place, network: bytes, tmp_path: Path) -> None:
    """So that what is refused above is refused for what is wrong with it."""
    model = tmp_path / "model"
    shutil.copytree(place.model, model)
    (model / CONSENSUS).write_bytes(network)
    words = ["--caption", place.caption, "--split", "test", "--out", tmp_path / "new.json"]
    done = run("clipcap-video", "infer", "--model_dir", model, "--data", place.data, *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", CONSENSUS])
@pytest.mark.parametrize("command", ["infer", "pack", "train-consensus", "doctor"])
def test_pipes_in_a_checkpoint(place: Place, tmp_path: Path, file: str, command: str) -> None:
    if (command, file) == ("train-consensus", "model.safetensors"):
        pytest.skip("it reads the configuration alone")
    model = tmp_path / "model"
    shutil.copytree(place.model, model)
    (model / file).unlink(missing_ok=True)
    os.mkfifo(model / file)
    with within(SECONDS):
        words = [] if command in ("pack", "doctor") else ["--data", place.data]
        words += ["--caption", place.caption] if command == "train-consensus" else []
        words += ["--out", tmp_path / "new"] if command in ("infer", "pack") else []
        done = run("clipcap-video", command, "--model_dir", model, *words)
    assert "Traceback" not in done.stderr
    assert done.returncode, done.stdout
    assert file in done.stdout + done.stderr


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, and a tiny CLIP beside them."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "videos").mkdir()
    for number in range(2):
        write_clip(folder / "videos" / f"video{number}.mp4", 10)
    save_tiny_clip(folder / "clip.pt")
    return folder


SHARES = ["0/2", "3/2", "1/0", "-1/2", "1", "1/2/3", "a/b", "", "1/" + "9" * 30, "1.5/2", "\u0661/2", "1 /2", "nan/2"]


@pytest.mark.parametrize("share", SHARES)
def test_shares(place: Place, clips: Path, tmp_path: Path, share: str) -> None:
    words = ["extract", clips / "videos", "--out", tmp_path / "new", "--encoder", clips / "clip.pt"]
    refuses(place, *words, f"--shard={share}")
    assert not (tmp_path / "new").exists()


NUMBERS = [["--actors", "0"], ["--actors", str(10**20)], ["--gpus_per_actor", "nan"], ["--gpus_per_actor", "1e300"]]
CLUSTERS = [["--ray_address", place] for place in ("nowhere.invalid:6379", "http://x", "127.0.0.1:1", "x:y:z")]
CLUSTERS += [["--gpus_per_actor", "1000"]]


def _ray_words(clips: Path, out: Path, command: str) -> list[Any]:
    words: list[Any] = [command, clips / "videos", "--engine", "ray", "--out", out]
    return [*words, "--encoder", clips / "clip.pt", "--frames", 2] if command == "extract" else words


@pytest.mark.slow
@pytest.mark.parametrize("more", NUMBERS, ids=" ".join)
@pytest.mark.parametrize("command", ["extract", "infer"])
def test_numbers_of_ray(place: Place, clips: Path, tmp_path: Path, command: str, more: list[str]) -> None:
    refuses(place, *_ray_words(clips, tmp_path / "new", command), *more)


@pytest.mark.slow
@pytest.mark.parametrize("more", CLUSTERS, ids=" ".join)
@pytest.mark.parametrize("command", ["extract", "infer"])
def test_clusters(clips: Path, tmp_path: Path, command: str, more: list[str]) -> None:
    """In a process of its own: Ray wants more memory than a hostile test is given, and what it starts stays."""
    pytest.importorskip("ray", reason="ray (extra ray) is not installed")
    words = [sys.executable, "-m", "clipcap_video", *map(str, _ray_words(clips, tmp_path / "new", command)), *more]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=5 * SECONDS, check=False)
    assert (done.returncode, done.stderr.count("error: "), "Traceback" in done.stderr) == (1, 1, False), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in (*inputs.texts(), *inputs.weight_files())])
@pytest.mark.parametrize("command", ["extract", "infer", "search", "doctor", "convert"])
def test_shards(place: Place, clips: Path, tmp_path: Path, command: str, name: str) -> None:
    """Features as Parquet files, one of which is something else."""
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "part-0.parquet").write_bytes(dict((*inputs.texts(), *inputs.weight_files()))[name])
    words: dict[str, list[Any]] = {
        "extract": [clips / "videos", "--format", "parquet", "--out", folder, "--encoder", clips / "clip.pt"],
        "infer": ["--model_dir", place.model, "--data", folder, "--out", tmp_path / "new.json"],
        "search": ["a man", "--features", folder, "--index_dir", tmp_path / "new"],
        "convert": [folder, "--format", "safetensors", "--out", tmp_path / "new"],
        "doctor": ["--data", folder],
    }
    if command == "doctor":
        with within(SECONDS):
            done = run("clipcap-video", command, *words[command])
        assert (done.returncode, "part-0" in done.stdout + done.stderr) == (1, True), done.stdout
        return
    assert "shards" in refuses(place, command, *words[command])
    assert [file.name for file in folder.iterdir()] == ["part-0.parquet"]


ADDRESSES = [
    "",
    "x",
    "ftp://x/v1",
    "http://",
    "http://[::",
    "http://x:99999999",
    "http://\0",
    "file:///etc/passwd",
    "http:///v1",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "command", ["infer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("caption", "watch"))]
)
def test_addresses(place: Place, clips: Path, tmp_path: Path, command: str, address: str) -> None:
    clip = clips / "videos" / "video0.mp4"
    words: list[Any] = [command, clip, "--out", tmp_path / "new"]
    words += [f"--webhook={address}"] if command == "watch" else [f"--second_opinion={address}", "--second_model", "m"]
    said = refuses(place, *words)
    assert "no web address" in said or not address


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in inputs.texts() if name not in ("string", "number", "null")])
def test_prompts(place: Place, clips: Path, tmp_path: Path, name: str) -> None:
    """A file that is no text is no prompt; any text is one, though no server is there."""
    pytest.importorskip("openai")
    (tmp_path / "prompt").write_bytes(dict(inputs.texts())[name])
    words = ["caption", clips / "videos" / "video0.mp4", "--second_opinion", "http://127.0.0.1:1/v1", "--out"]
    with within(2 * SECONDS):
        done = run(
            "clipcap-video", *words, tmp_path / "new", "--second_model", "m", "--second_prompt", tmp_path / "prompt"
        )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "error: " in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in inputs.texts()])
@pytest.mark.parametrize("role", ["source", "out"])
def test_watched(place: Place, clips: Path, tmp_path: Path, name: str, role: str) -> None:
    """A source that is no video, and lines to be added to that are something else."""
    if (role, name) == ("out", "empty"):
        pytest.skip("lines are added to an empty file")
    file = tmp_path / "file.mp4"
    file.write_bytes(content := dict(inputs.texts())[name])
    if role == "source":
        refuses(place, "watch", file, "--patience", 0.2, "--out", tmp_path / "w.jsonl")
    else:
        refuses(place, "watch", clips / "videos" / "video0.mp4", "--patience", 0.2, "--out", file)
    assert file.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--patience", "--min_shot", "--max_shot", "--min_support", "--beam_size"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e308", "x", ""])
def test_numbers_of_watch(place: Place, clips: Path, tmp_path: Path, option: str, value: str) -> None:
    refuses(place, "watch", clips / "videos" / "video0.mp4", f"{option}={value}", "--out", tmp_path / "new")


FORMS = ["", "docx", "json,csv", "JSON", "../json", "\0", "vtt ", "coco.json"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", ["infer", pytest.param("caption", marks=pytest.mark.slow)])
def test_forms(place: Place, clips: Path, tmp_path: Path, command: str, form: str) -> None:
    refuses(place, command, clips / "videos", f"--to={form}", "--out", tmp_path / "new.json")
    assert not any(tmp_path.iterdir())


SEARCH = STARTER / "search"


@pytest.mark.slow
@pytest.mark.skipif(not SEARCH.exists(), reason="the model in the box is not here")
@pytest.mark.parametrize("kind", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("name", [name for name, _ in (*inputs.texts(), *inputs.weight_files())])
def test_the_search_model_in_the_box(
    place: Place, tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    shutil.copytree(SEARCH, model := tmp_path / "search")
    (model / kind).write_bytes(dict((*inputs.texts(), *inputs.weight_files()))[name])
    said = refuses(place, "search", "a man", "--features", place.data, "--model_dir", model, "--index_dir", tmp_path)
    assert str(model) in said


@pytest.mark.slow
@pytest.mark.skipif(not SEARCH.exists(), reason="the model in the box is not here")
@pytest.mark.parametrize("value", [None, -1, 0, 10**12, 1.5, "x", [], {}, True])
def test_every_number_of_the_search_model(place: Place, tmp_path: Path, value: Any) -> None:
    shutil.copytree(SEARCH, model := tmp_path / "search")
    config = json.loads((SEARCH / "config.json").read_text())
    for name, right in config["retrieval"].items():
        if right is None or type(right) is type(value) is bool or right == value:
            continue
        (model / "config.json").write_text(json.dumps(config | {"retrieval": config["retrieval"] | {name: value}}))
        with within(SECONDS):
            done = run("clipcap-video", "search", "a man", "--features", place.data, "--model_dir", model)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), (name, done.stdout, done.stderr)
        assert done.stderr.count("error: ") == 1


@pytest.mark.parametrize("name", [name for name, _ in (*inputs.texts(), *inputs.weight_files())][::4])
def test_a_damaged_index_is_made_anew(place: Place, tmp_path: Path, name: str) -> None:
    words = ["search", "--like", "video3", "--features", place.data, "--index_dir", tmp_path, "--json"]
    first = run("clipcap-video", *words)
    assert first.returncode == 0, first.stderr
    (file,) = tmp_path.glob("*.index")
    right = file.read_bytes()
    wrong = dict((*inputs.texts(), *inputs.weight_files()))[name]
    for content in (wrong, right[:200], right[: len(right) // 2] + wrong, right.replace(b"offsets", b"offsetx")):
        file.write_bytes(content)
        with within(SECONDS):
            again = run("clipcap-video", *words)
        assert json.loads(again.stdout)["results"] == json.loads(first.stdout)["results"]


def test_places_that_stand_for_too_much(place: Place, tmp_path: Path) -> None:
    for source in ("clip{0..99999999999}.mp4", "{a," * 50 + "b" + "}" * 50, "{a,b}" * 30, "file:///proc/kmsg"):
        refuses(place, "infer", source, "--out", tmp_path / "new.json")


COLUMNS: dict[str, list[Any]] = {
    "path": ["/proc/kmsg", "/dev/zero", "\0"],
    "video_path": ["a.mp4", None],
    "video": [1.5, 2.5],
    "bytes": [b"x", None],
    "mp4": [{"bytes": None, "path": "x"}],
    "url": [["x"]],
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("command", ["infer", "doctor"])
def test_tables_of_videos(place: Place, tmp_path: Path, command: str, name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({name: COLUMNS[name]}), tmp_path / "table.parquet")
    words = ["--out", tmp_path / "new.json"] if command == "infer" else []
    with within(SECONDS):
        done = run("clipcap-video", command, tmp_path / "table.parquet", *words)
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2), done.stdout
