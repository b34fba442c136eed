"""What a newcomer types: names of options, bare words, help, completion, and how much a command says."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from clipcap_video import console
from clipcap_video.captioning.predictions import Caption, Prediction, PredictionFile
from clipcap_video.cli import COMMANDS
from clipcap_video.cli.command import Command
from clipcap_video.metrics import java
from tests.clips import write_clip
from tests.commands import ROOT, refused, run
from tests.conftest import TinyProject


@pytest.fixture(autouse=True)
def usual_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)
    monkeypatch.setattr(console, "_level", console.USUAL)


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A folder with predictions and their references."""
    entries = [Prediction("a", [Caption("a dog runs", -1.0, -1.0, 1)])]
    PredictionFile("model", None, {}, entries).save(tmp_path / "p.json")
    (tmp_path / "c.csv").write_text("video,caption\na,a dog runs\na,the dog\n")
    return tmp_path


def command(name: str) -> Command:
    module, attribute = COMMANDS[name]
    return getattr(import_module(f"clipcap_video.cli.{module}"), attribute)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_shows_examples_line_by_line(name: str) -> None:
    lines = [line.strip() for line in run("clipcap-video", name, "--help").stdout.splitlines()]
    examples = [line for line in lines if line.startswith("clipcap-video ")]
    assert "Examples:" in lines
    assert examples
    assert all(example.split()[1] == name for example in examples)
    assert (command(name).__doc__ or "").count("\n  clipcap-video ") == len(examples)


def test_brackets_in_help_are_text() -> None:
    assert "pip install 'clipcap-video[web]'" in " ".join(run("clipcap-video", "serve", "--help").stdout.split())


class TestNames:
    def test_one_name_each_and_the_old_ones_still_work(self, scored: Path) -> None:
        new = run("clipcap-video", "evaluate", "p.json", "--annotations", "c.csv", "--out", "new.json", cwd=scored)
        old = run(
            "clipcap-video", "evaluate", "--predictions", "p.json", "--caption", "c.csv", "--out_dir", "old.json",
            cwd=scored,
        )  # fmt: skip
        assert (new.returncode, old.returncode) == (0, 0), new.stderr + old.stderr
        assert (scored / "new.json").read_bytes() == (scored / "old.json").read_bytes()
        shown = run("clipcap-video", "train", "--help").stdout
        assert all(f"{name} " in shown for name in ("--features", "--annotations", "--out"))
        assert not any(f"{name} " in shown for name in ("--data", "--caption", "--out_dir"))

    def test_records_have_the_new_names_and_old_records_are_read(self, scored: Path) -> None:
        assert run("clipcap-video", "evaluate", "p.json", "--annotations", "c.csv", cwd=scored).returncode == 0
        record = yaml.safe_load((scored / "scores.run.yaml").read_text())
        assert record["annotations"] == [str(scored / "c.csv")]
        (scored / "then.yaml").write_text(f"predictions: {scored / 'p.json'}\ncaption: [{scored / 'c.csv'}]\n")
        assert run("clipcap-video", "evaluate", "--config", "then.yaml", cwd=scored).returncode == 0
        assert "'captions'; did you mean" in run(
            "clipcap-video", "evaluate", "--config", write(scored / "typo.yaml", "captions: x\n"), cwd=scored
        ).stderr.replace("\n", " ")

    def test_messages_use_the_new_names(self, tmp_path: Path) -> None:
        done = run("clipcap-video", "extract", "--paragraphs", "--dry_run", cwd=tmp_path)
        assert "--paragraphs belongs to --annotations" in done.stderr


class TestBareWords:
    @pytest.mark.parametrize("name", ["extract", "infer", "caption", "doctor"])
    def test_videos_need_no_option(self, name: str, tmp_path: Path) -> None:
        for words in (["nowhere.mp4"], ["--videos", "nowhere.mp4"]):
            done = run("clipcap-video", name, *words, cwd=tmp_path)
            assert done.returncode == (2 if name == "doctor" else 1)
            assert "error: nothing at nowhere.mp4" in done.stderr

    def test_words_and_options_together(self, tmp_path: Path) -> None:
        for name in "ab":
            write_clip(tmp_path / f"{name}.mp4")
        done = run("clipcap-video", "doctor", "a.mp4", "--videos", "b.mp4", cwd=tmp_path)
        assert (done.returncode, done.stdout[:20]) == (0, "looked at 2 videos, ")

    def test_one_value_given_twice(self, scored: Path) -> None:
        said = refused("clipcap-video", "report", "p.json", "--predictions", "q.json", cwd=scored)
        assert "predictions is given twice, as p.json and as q.json" in said

    def test_a_missing_word_is_named(self, tmp_path: Path) -> None:
        assert "no predictions given" in refused("clipcap-video", "report", cwd=tmp_path)


class TestHowMuchIsSaid:
    def test_quiet_leaves_files_and_errors(self, scored: Path) -> None:
        done = run("clipcap-video", "evaluate", "p.json", "--annotations", "c.csv", "-q", cwd=scored)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (scored / "scores.json").exists()
        assert (
            "error: no predictions at"
            in run("clipcap-video", "evaluate", "none.json", "--annotations", "c.csv", "-q", cwd=scored).stderr
        )

    def test_verbose_gives_an_error_its_traceback(self, scored: Path) -> None:
        words = ["clipcap-video", "evaluate", "none.json", "--annotations", "c.csv"]
        assert "Traceback" not in run(*words, cwd=scored).stderr
        assert "Traceback" in run(*words, "-v", cwd=scored).stderr

    def test_training_speaks_before_its_first_step(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        train = [
            "clipcap-video", "train", "--features", tiny_project.data, "--annotations", tiny_project.caption,
            "--lm", tiny_project.lm, "--only_prefix", "--num_layers", "1", "--epochs", "1", "--device", "cpu", "--out",
        ]  # fmt: skip
        lines = run(*train, tmp_path / "out").stderr.splitlines()
        assert lines[0] == f"reading features in {tiny_project.data} and their captions"
        assert lines[1] == "24 videos with 72 captions; loading the models and tokenising"
        assert any(line.startswith("epoch 1, step 1 of ") for line in lines)
        assert run(*train, tmp_path / "quiet", "-q").stderr.count("\n") < len(lines) - 2


def test_the_shell_completes_commands_and_options() -> None:
    def completed(*words: str) -> str:
        environment = os.environ | {
            "_CLIPCAP_VIDEO_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        code = "import sys; sys.argv[0] = 'clipcap-video'; from clipcap_video.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        ).stdout

    assert completed("clipcap-video", "inf").split() == ["infer"]
    assert completed("clipcap-video", "infer", "--rep").split()[:1] == ["--repetition_penalty"]


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file
