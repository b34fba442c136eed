"""Every command on inputs that nobody means: a non-zero status, one sentence, no traceback, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from clipcap_video.features.resume import missing_videos
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import train
from tests.commands import run
from tests.conftest import TinyProject
from tests.hostile import inputs
from tests.tiny import fingerprint

SECONDS = 60  # far more than a refusal takes, also where other programs run
MEMORY = 2**31  # bytes, beside what the tests have already


@dataclass(frozen=True)
class Place:
    """A project with a trained captioner in it, which no command may change."""

    folder: Path
    data: Path
    caption: Path
    lm: Path
    model: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_project: TinyProject) -> Place:
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(tiny_project.data, folder / "features")
    shutil.copytree(tiny_project.lm, folder / "lm")
    shutil.copy(tiny_project.caption, folder / "captions.json")
    train(
        TrainConfig(
            data=folder / "features", caption=[folder / "captions.json"], out_dir=folder / "out", lm=str(folder / "lm"),
            epochs=1, bs=12, only_prefix=True, num_layers=1, prefix_length=3, eval_every=0, save_every=0,
            device="cpu", precision="fp32",
        )
    )  # fmt: skip
    return Place(folder, folder / "features", folder / "captions.json", folder / "lm", folder / "out" / "last")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refuses(place: Place, *words: Any) -> str:
    """The sentence with which a command stops."""
    before = _digest(place.folder)
    with within(SECONDS):
        done = run("clipcap-video", *words)
    shown = f"{' '.join(map(str, words))}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"
    assert done.returncode not in (0, 130), shown
    assert "Traceback" not in done.stderr, shown
    said = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "│ "))]
    assert said, shown
    assert sum(line.startswith("error: ") for line in said) <= 1, shown
    assert "weights_only" not in done.stderr, shown
    assert _digest(place.folder) == before, "what was there has changed"
    return " ".join(said)


# Commands that read annotations, with {} for the file.
READERS = {
    "train": ["train", "--data", "DATA", "--lm", "LM", "--caption", "{}", "--out_dir", "NEW"],
    "infer": ["infer", "--model_dir", "MODEL", "--data", "DATA", "--caption", "{}", "--out", "NEW.json"],
    "new-lm": ["new-lm", "--caption", "{}", "--out", "NEW"],
    "train-consensus": ["train-consensus", "--model_dir", "MODEL", "--data", "DATA", "--caption", "{}"],
    "evaluate": ["evaluate", "--predictions", "PREDICTIONS", "--caption", "{}"],
}


def _words(place: Place, folder: Path, words: list[str], file: Path) -> list[str]:
    (folder / "predictions.json").write_text(json.dumps({"video30": "a man"}))
    known = {
        "DATA": place.data, "LM": place.lm, "MODEL": place.model, "NEW": folder / "new",
        "NEW.json": folder / "new.json",
        "PREDICTIONS": folder / "predictions.json", "{}": file,
    }  # fmt: skip
    return [str(known.get(word, word)) for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("name", [name for name, _ in (*inputs.texts(), *inputs.annotations())])
def test_annotations(place: Place, tmp_path: Path, command: str, name: str) -> None:
    content = dict((*inputs.texts(), *inputs.annotations()))[name]
    suffix = ".csv" if name.startswith("csv") else ".jsonl" if name.startswith("jsonl") else ".json"
    file = tmp_path / f"captions{suffix}"
    file.write_bytes(inputs.as_bytes(content))
    assert str(file) in refuses(place, *_words(place, tmp_path, READERS[command], file))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["infer", "train", "train-consensus", "extract"])
@pytest.mark.parametrize("name", [name for name, _ in inputs.texts()])
def test_option_files(place: Place, tmp_path: Path, command: str, name: str) -> None:
    if (command, name) in {(command, empty) for empty in ("empty", "white", "null")}:
        pytest.skip("a file without options is a file")
    file = tmp_path / "run.yaml"
    file.write_bytes(dict(inputs.texts())[name])
    refuses(place, command, "--config", file)


FEATURE_READERS = {
    "train": ["train", "--data", "{}", "--lm", "LM", "--caption", "CAPTION", "--out_dir", "NEW"],
    "train-consensus": ["train-consensus", "--model_dir", "MODEL", "--data", "{}", "--caption", "CAPTION"],
    "search": ["search", "a man", "--features", "{}", "--index_dir", "NEW"],
}


@pytest.mark.parametrize("command", FEATURE_READERS)
@pytest.mark.parametrize("name", [name for name, _ in inputs.feature_files("{}")])
def test_features(place: Place, tmp_path: Path, command: str, name: str) -> None:
    folder = tmp_path / "features"
    shutil.copytree(place.data, folder)
    content = dict(inputs.feature_files(fingerprint().to_json()))[name]
    (folder / "video0.safetensors").write_bytes(content)
    words = _words(place, tmp_path, FEATURE_READERS[command], folder)
    refuses(place, *[str(place.caption) if word == "CAPTION" else word for word in words])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "nan" else pytest.mark.slow) for name, _ in inputs.feature_files("{}")],
)
def test_one_damaged_feature_file_does_not_stop_the_others(place: Place, tmp_path: Path, name: str) -> None:
    """infer captions the others and ends in 1, the doctor finds it, and an extraction makes it again."""
    folder = tmp_path / "features"
    shutil.copytree(place.data, folder)
    file = folder / "video30.safetensors"
    file.write_bytes(dict(inputs.feature_files(fingerprint().to_json()))[name])
    words = ["--caption", place.caption, "--split", "test", "--out", tmp_path / "new.json"]
    with within(SECONDS):
        done = run("clipcap-video", "infer", "--model_dir", place.model, "--data", folder, *words)
        looked = run("clipcap-video", "doctor", "--data", folder)
    assert (done.returncode, "could not read video30: " in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr + looked.stderr
    captioned = [entry["video"] for entry in json.loads((tmp_path / "new.json").read_text())["predictions"]]
    assert captioned
    assert "video30" not in captioned
    assert (looked.returncode, "video30" in looked.stdout) == (1, True), looked.stdout
    assert list(missing_videos({"video30": file, "video31": file}, folder, fingerprint(), False)) == ["video30"]


@pytest.mark.parametrize("command", ["infer", "pack", "doctor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(place: Place, tmp_path: Path, command: str, value: float) -> None:
    model = _broken_model(place, tmp_path)
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).view(-1)[3] = value
    save_file(weights, model / "model.safetensors")
    if command == "doctor":
        done = run("clipcap-video", "doctor", "--model_dir", model)
        assert (done.returncode, "no finite numbers" in " ".join(done.stdout.split())) == (1, True), done.stdout
    else:
        assert "no finite numbers" in refuses(place, command, "--model_dir", model, "--out", tmp_path / "new")


def _broken_model(place: Place, folder: Path) -> Path:
    model = folder / "model"
    shutil.copytree(place.model, model)
    return model


@pytest.mark.parametrize("name", [name for name, _ in inputs.weight_files()])
@pytest.mark.parametrize("command", ["infer", "pack", "train-consensus"])
def test_weights(place: Place, tmp_path: Path, command: str, name: str) -> None:
    model = _broken_model(place, tmp_path)
    (model / "model.safetensors").write_bytes(dict(inputs.weight_files())[name])
    if command == "train-consensus":
        pytest.skip("it reads the configuration alone")
    refuses(place, command, "--model_dir", model, "--out", tmp_path / "new")


CONFIG = {"model": "", "version": 1, "format": "", "captioner": {"mapping": {}}}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in inputs.changed_configs(CONFIG)])
@pytest.mark.parametrize("command", ["infer", "pack"])
def test_configurations(place: Place, tmp_path: Path, command: str, name: str) -> None:
    model = _broken_model(place, tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(dict(inputs.changed_configs(config))[name]))
    refuses(place, command, "--model_dir", model, "--out", tmp_path / "new")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in inputs.texts()])
@pytest.mark.parametrize("file", ["config.json", "tokenizer/tokenizer.json"])
def test_files_of_a_checkpoint(place: Place, tmp_path: Path, file: str, name: str) -> None:
    model = _broken_model(place, tmp_path)
    if file != "config.json":
        # A frozen language model is looked for by name; here is one that is damaged.
        lm = tmp_path / "lm"
        shutil.copytree(place.lm, lm)
        (lm / "tokenizer.json").write_bytes(dict(inputs.texts())[name])
        refuses(place, "infer", "--model_dir", model, "--lm", lm, "--out", tmp_path / "new.json")
        return
    (model / file).write_bytes(dict(inputs.texts())[name])
    refuses(place, "infer", "--model_dir", model, "--out", tmp_path / "new.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in inputs.pt_files()])
@pytest.mark.parametrize("command", ["infer", "convert"])
def test_pickled_checkpoints(place: Place, tmp_path: Path, command: str, name: str) -> None:
    file = tmp_path / "coco_prefix-009.pt"
    file.write_bytes(dict(inputs.pt_files())[name])
    if command == "infer":
        words = ["--model_dir", file, "--lm", place.lm, "--data", place.data, "--out", tmp_path / "new.json"]
        refuses(place, "infer", *words)
    else:
        refuses(place, "convert", file, "--lm", place.lm, "--out", tmp_path / "new")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in (*inputs.texts(), *inputs.predictions())])
@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_predictions(place: Place, tmp_path: Path, command: str, name: str) -> None:
    file = tmp_path / "predictions.json"
    content = dict((*inputs.texts(), *inputs.predictions()))[name]
    file.write_bytes(inputs.as_bytes(content))
    if (command, name) == ("report", "captions_empty"):
        pytest.skip("a video without a caption is shown as one")
    if command == "report":
        refuses(place, "report", file, "--out", tmp_path / "page.html")
    else:
        refuses(place, "evaluate", "--predictions", file, "--caption", place.caption, "--split", "test")


NUMBERS = ["nan", "inf", "-inf", "1e308", "-1", "0x10", "", "1e20", str(10**20)]
OPTIONS = {
    "train": [
        "--lr",
        "--epochs",
        "--bs",
        "--grad_accum",
        "--prefix_length",
        "--dropout",
        "--weight_decay",
        "--clip_norm",
    ],
    "train-consensus": ["--lr", "--epochs", "--hidden", "--networks", "--mixup"],
    "evaluate": ["--bootstrap"],
    "infer": ["--beam_size", "--length_penalty", "--temperature", "--top_p", "--entry_length", "--num_return"],
}
REST = {
    "train": ["--data", "DATA", "--lm", "LM", "--caption", "CAPTION", "--out_dir", "NEW"],
    "train-consensus": ["--model_dir", "MODEL", "--data", "DATA", "--caption", "CAPTION"],
    "evaluate": ["--predictions", "PREDICTIONS", "--caption", "CAPTION", "--split", "test"],
    "infer": ["--model_dir", "MODEL", "--data", "DATA", "--out", "NEW.json"],
}
# Values that make sense for these.
FINE = {("--weight_decay", "0x10"), ("--epochs", "")}


@pytest.mark.slow
@pytest.mark.parametrize("value", [value for value in NUMBERS if value != "1e20"])
@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, flags in OPTIONS.items() for flag in flags])
def test_numbers(place: Place, tmp_path: Path, command: str, flag: str, value: str) -> None:
    words = _words(place, tmp_path, REST[command], tmp_path)
    words = [str(place.caption) if word == "CAPTION" else word for word in words]
    refuses(place, command, *words, f"{flag}={value}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "DATA", "--lm", "LM", "--caption", "PIPE", "--out_dir", "NEW"],
        ["train", "--data", "PIPE", "--lm", "LM", "--caption", "CAPTION", "--out_dir", "NEW"],
        ["infer", "--model_dir", "PIPE", "--data", "DATA", "--out", "NEW.json"],
        ["infer", "--videos", "PIPE", "--out", "NEW.json"],
        ["report", "PIPE", "--out", "NEW.json"],
        ["evaluate", "--predictions", "PIPE", "--caption", "CAPTION"],
        ["convert", "PIPE", "--out", "NEW"],
        ["infer", "--config", "PIPE"],
        ["search", "a", "--features", "PIPE"],
        ["doctor", "--videos", "PIPE"],
        ["extract", "--videos", "PIPE", "--out", "NEW", "--encoder", "efficientnet-lite2"],
    ],
    ids=lambda words: f"{words[0]}{words.index('PIPE')}",
)
def test_pipes_are_not_waited_for(place: Place, tmp_path: Path, words: list[str]) -> None:
    pipe = inputs.fifo(tmp_path)
    words = [str(pipe) if word == "PIPE" else word for word in _words(place, tmp_path, words, tmp_path)]
    refuses(place, *[str(place.caption) if word == "CAPTION" else word for word in words])
