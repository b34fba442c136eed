"""What a command may write over."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipcap_video.files import alone_in
from tests.commands import refused, run
from tests.conftest import TinyProject

MADE = b'{"video30": "a man"}'


@pytest.fixture
def folder(tmp_path: Path, tiny_project: TinyProject) -> Path:
    (tmp_path / "p.json").write_bytes(MADE)
    shutil.copy(tiny_project.caption, tmp_path / "c.json")
    shutil.copytree(tiny_project.data, tmp_path / "features")
    (tmp_path / "stranger.html").write_text("mine")
    (tmp_path / "stranger.run.yaml").write_text("mine: 1\n")
    return tmp_path


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


EVALUATE = ["evaluate", "--predictions", "p.json", "--caption", "c.json", "--split", "test", "--allow_missing"]
REPORT = ["report", "p.json"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["report", "p.json", "--out", "p.json"], "is read by this run"),
        (["report", "p.json", "--out", "hard.json"], "is read by this run"),
        ([*EVALUATE, "--out", "c.json"], "is read by this run"),
        ([*EVALUATE, "--out", "c.json", "--overwrite"], "is read by this run"),
        ([*EVALUATE, "--out", "s.json", "--confidence_curve", "s.json"], "the same file"),
        (["doctor", "--data", "features", "--json", "features/video0.safetensors", "--overwrite"], "is there already"),
        (["doctor", "--caption", "c.json", "--json", "stranger.html"], "--overwrite"),
        ([*EVALUATE, "--out", "features"], "is a folder"),
        ([*EVALUATE, "--out", "p.json/s.json"], "is not a folder"),
        ([*EVALUATE, "--out", "null"], "is a device"),
        ([*EVALUATE, "--out", "pipe"], "is a pipe"),
        ([*EVALUATE, "--out", "loop"], "is a link to itself"),
        ([*EVALUATE, "--out", "stranger.json"], "stranger.run.yaml"),
        (["new-lm", "--caption", "c.json", "--out", "features"], "is there already"),
        (["infer", "--data", "features", "--out", "a.json", "--caption", "a.scores.json"], "is read by this run"),
        (["infer", "--videos", "list.txt", "--out", "clip.mp4", "--overwrite"], "is read by this run"),
        (["infer", "--videos", "clip.mp4", "--out", "a.json", "--report", "a.json"], "the same file"),
        (["doctor", "--data", "features", "--json", "linked", "--overwrite"], "is read by this run"),
        (["doctor", "--data", "features", "--json", "symbolic", "--overwrite"], "is read by this run"),
        (["report", "named.json", "--out", "clip.mp4", "--overwrite"], "is read by this run"),
        (["infer", "--videos", "clip.mp4", "--out", "."], "is a folder"),
        (["infer", "--data", "features", "--out", ""], "is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_that_was_there_is_lost(folder: Path, words: list[str], why: str) -> None:
    os.link(folder / "p.json", folder / "hard.json")
    (folder / "null").symlink_to(os.devnull)  # only looked at
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    shutil.copy(folder / "c.json", folder / "a.scores.json")
    (folder / "clip.mp4").write_bytes(b"a video")
    (folder / "list.txt").write_text("clip.mp4\n")
    os.link(folder / "features" / "video0.safetensors", folder / "linked")
    (folder / "symbolic").symlink_to(folder / "features" / "video0.safetensors")
    caption = {"text": "a man", "logprob": -1.0, "mean_logprob": -0.5, "tokens": 2}
    named = {"video": "clip", "path": "clip.mp4", "captions": [caption]}
    (folder / "named.json").write_text(json.dumps({"version": 1, "predictions": [named]}))
    before = _bytes(folder)
    assert why in refused("clipcap-video", *words, cwd=folder)
    assert _bytes(folder) == before
    assert Path(os.devnull).is_char_device()


def test_the_same_command_replaces_its_own_result(folder: Path) -> None:
    """Of the same inputs; when one of them, or the result, has changed since, only if it is told to."""

    def again(*more: str) -> str:
        done = run("clipcap-video", *REPORT, "--out", "page.html", *more, cwd=folder)
        return done.stderr if done.returncode else ""

    (folder / "p.json").write_text(json.dumps({"version": 1, "predictions": []}))
    changes: list[Callable[[], object]] = [
        lambda: (folder / "page.html").write_text("by hand"),
        lambda: (folder / "p.json").write_text(json.dumps({"version": 1, "model": "another", "predictions": []})),
    ]
    assert not again()
    assert not again("--frame_size", "80")
    for change in changes:
        change()
        page = (folder / "page.html").read_bytes()
        assert "is there already" in again()
        assert (folder / "page.html").read_bytes() == page
        assert not again("--overwrite")
        assert not again()


@pytest.mark.slow
def test_scores_beside_captions_are_brought_up_to_date(folder: Path) -> None:
    assert run("clipcap-video", *EVALUATE, cwd=folder).returncode == 0
    captions = json.loads((folder / "c.json").read_text())
    captions["sentences"] = captions["sentences"][::-1]
    (folder / "c.json").write_text(json.dumps(captions))
    assert run("clipcap-video", *EVALUATE, cwd=folder).returncode == 0
    (folder / "scores.json").write_text("{}")
    assert "is there already" in refused("clipcap-video", *EVALUATE, cwd=folder)


def test_a_folder_that_is_replaced_keeps_what_others_put_there(folder: Path, tiny_project: TinyProject) -> None:
    from clipcap_video.training.config import TrainConfig
    from clipcap_video.training.run import train

    train(
        TrainConfig(
            data=tiny_project.data, caption=[tiny_project.caption], out_dir=folder / "out", lm=str(tiny_project.lm),
            epochs=1, bs=12, only_prefix=True, num_layers=1, prefix_length=2, eval_every=0, save_every=0, device="cpu",
        )
    )  # fmt: skip
    pack = ["clipcap-video", "pack", "--model_dir", "out", "--out"]
    assert "is there already" in refused(*pack, "out/last", "--overwrite", cwd=folder)
    assert run(*pack, "packed", cwd=folder).returncode == 0
    (folder / "packed" / "notes.txt").write_text("mine")
    assert "is there already" in refused(*pack, "packed", cwd=folder)
    assert run(*pack, "packed", "--overwrite", cwd=folder).returncode == 0
    assert (folder / "packed" / "notes.txt").read_text() == "mine"


def test_a_place_that_is_read_only_is_found_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert "is read-only" in refused("clipcap-video", *EVALUATE, "--out", "new/s.json", cwd=folder)


def test_help_says_the_rule() -> None:
    shown = " ".join(run("clipcap-video", "--help").stdout.replace("│", " ").split())
    assert "An output never replaces an input" in shown


class TestTwoAtOnce:
    def test_a_second_training_is_refused(self, tmp_path: Path, tiny_project: TinyProject) -> None:
        (tmp_path / "out").mkdir()
        words = ["train", "--data", tiny_project.data, "--caption", tiny_project.caption, "--lm", tiny_project.lm]
        with alone_in(tmp_path / "out", "training in"):
            said = refused("clipcap-video", *words, "--out_dir", tmp_path / "out", "--only_prefix")
        assert "another process is training in" in said
        assert not list((tmp_path / "out").iterdir())


def test_a_run_without_its_last_checkpoint_is_not_started_over(tmp_path: Path, tiny_project: TinyProject) -> None:
    (tmp_path / "out" / "best").mkdir(parents=True)
    words = ["train", "--data", tiny_project.data, "--caption", tiny_project.caption, "--lm", tiny_project.lm]
    for more in ([], ["--resume"]):
        assert "would be lost" in refused("clipcap-video", *words, "--out_dir", tmp_path / "out", *more)
