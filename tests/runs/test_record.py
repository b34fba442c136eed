"""Option files, and the records from which runs are repeated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from clipcap_video.captioning.predictions import Caption, Prediction, PredictionFile
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics import java
from clipcap_video.runs import record as runs
from clipcap_video.runs.options import called, option_fields
from clipcap_video.training.config import TrainConfig
from tests.clips import write_clip
from tests.commands import refused, run
from tests.conftest import TinyProject
from tests.tiny import write_annotations
from tests.tiny_clip import save_tiny_clip


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


def same_weights(*folders: Path) -> bool:
    first, second = (load_file(folder / "last" / "model.safetensors") for folder in folders)
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def train(project: TinyProject, *more: object) -> list[object]:
    return [
        "train_vtt.py", "--data", project.data, "--caption", project.caption, "--lm", project.lm, "--device", "cpu",
        "--precision", "fp32", "--num_layers", "1", "--prefix_length", "2", "--bs", "9", "--epochs", "2",
        "--save_every", "0", "--dropout", "0.2", "--seed", "5", *more,
    ]  # fmt: skip


class TestOptionFiles:
    def write(self, folder: Path, text: str) -> Path:
        file = folder / "options.yaml"
        file.write_text(text)
        return file

    def test_the_command_line_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import clipcap_video.training.run as captioning

        seen: list[TrainConfig] = []

        def stop(config: TrainConfig) -> None:
            seen.append(config)
            raise ClipcapError("enough")

        monkeypatch.setattr(captioning, "train", stop)
        file = self.write(
            tmp_path, "lr: 3e-3\nbs: 7\nepochs: 4\nonly_prefix: true\nis_rn: true\ncaption: a.json\nmapping_type: mlp\n"
        )
        run("train_vtt.py", "--bs", "2", "--no_is_rn", "--config", file)
        (config,) = seen
        assert (config.lr, config.bs, config.epochs, config.mapping_type) == (3e-3, 2, 4, "mlp")
        assert (config.only_prefix, config.is_rn, config.caption) == (True, False, [Path("a.json")])
        assert config.prefix_length == TrainConfig().prefix_length  # of neither
        # text_cache: an option of earlier versions, which their records hold.
        self.write(tmp_path, "caption: [a.json, b.json]\nlr: null\ntext_cache: null\n")
        run("train_vtt.py", "--config", file)
        assert seen[1].caption == [Path("a.json"), Path("b.json")]
        assert seen[1].lr == TrainConfig().lr

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("epoch: 3", "no option 'epoch'; did you mean 'epochs'?"),
            ("only-prefix: true", "did you mean 'only_prefix'?"),
            ("xyzzy: 3", "no option 'xyzzy'; see clipcap-video train --help"),
            ("lr: [1, 2]", "the option lr takes one value"),
            ("lr: {a: 2}", "the option lr takes one value"),
            ("bs: true", "the option bs takes a value, not true"),
            ("bs: 3\nbs: 4", "an option is there twice"),
            ("lr: fast", "Invalid value for '--lr'"),
            ("mapping_type: rnn", "'rnn' is not one of"),
            ("just words", "holds no options"),
            ("a: [", "cannot read the options"),
            ("record: {command: extract}", "was written by clipcap-video extract, not train"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, text: str, said: str) -> None:
        done = run("train_vtt.py", "--config", self.write(tmp_path, text), cwd=tmp_path)
        assert done.returncode == 2
        box = str.maketrans(dict.fromkeys("│\n", " "))
        assert said in " ".join(done.stderr.translate(box).split())
        assert [path.name for path in tmp_path.iterdir()] == ["options.yaml"]

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        done = run("extract_features.py", "--config", tmp_path / "no.yaml")
        assert (done.returncode, "cannot read the options" in done.stderr) == (2, True)


class TestTraining:
    def test_a_run_is_repeated_from_its_record(
        self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = run(*train(tiny_project, "--out_dir", "out", "--only_prefix"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        content = read(tmp_path / "out" / "run.yaml")
        record = content.pop("record")
        assert set(content) == {called(item.name) for item in option_fields(TrainConfig)} - {"resume", "dry_run"}
        assert (content["seed"], content["only_prefix"], content["lr"]) == (5, True, 1e-4)
        assert record["versions"]["python"] == sys.version.split()[0]
        assert record["data"]["features"]["videos"] == 24
        assert record["data"]["features"]["fingerprint"]["encoder"] == "tiny"
        (caption,) = record["data"]["annotations"].values()
        assert caption == runs.file_digest(tiny_project.caption)
        assert record["machine"]["precision"] == "fp32"

        (tmp_path / "elsewhere").mkdir()  # paths hold from any folder
        again = ["train_vtt.py", "--config", tmp_path / "out" / "run.yaml", "--out_dir"]
        assert run(*again, "again", cwd=tmp_path / "elsewhere").returncode == 0
        assert same_weights(tmp_path / "out", tmp_path / "elsewhere" / "again")
        assert run(*again, "other", "--seed", "6", cwd=tmp_path / "elsewhere").returncode == 0
        assert not same_weights(tmp_path / "out", tmp_path / "elsewhere" / "other")

    def test_a_resumed_run_keeps_what_was_before(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        """Stopped by its time, gone on from its record with more, and equal to a run that was never stopped."""
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        assert run(*train(tiny_project, "--out_dir", whole, "--only_prefix")).returncode == 0
        assert run(
            *train(tiny_project, "--out_dir", parts, "--only_prefix", "--max_minutes", "1e-9")
        ).returncode == 0  # fmt: skip
        first = read(parts / "run.yaml")
        assert first["max_minutes"] == 1e-9
        done = run("train_vtt.py", "--config", parts / "run.yaml", "--resume", "--max_minutes", "0")
        assert done.returncode == 0, done.stderr
        second = read(parts / "run.yaml")
        assert "resume" not in second
        assert second["max_minutes"] == 0
        (earlier,) = second["record"]["earlier"]
        assert earlier["started"] == first["record"]["started"]
        assert "--max_minutes 1e-9" in earlier["command_line"]
        assert "--resume" in second["record"]["command_line"]
        assert same_weights(whole, parts)
        assert run("train_vtt.py", "--config", parts / "run.yaml").returncode == 1  # there is a run already


def test_extraction_and_inference_are_repeated(tmp_path: Path, tiny_lm: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(4):
        write_clip(videos / f"video{number}.mp4", frames=5 + number)
    write_annotations(tmp_path / "a.json", range(2), range(2, 3), range(3, 4))
    clip = save_tiny_clip(tmp_path / "tiny-clip.pt")
    done = run(
        "extract_features.py", "--videos", "videos", "--encoder", "tiny-clip.pt", "--frames", "3", "--device", "cpu",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = read(tmp_path / "features" / "run.yaml")
    assert (record["encoder"], record["frames"], record["videos"]) == (str(clip), 3, [str(videos)])
    done = run("extract_features.py", "--config", tmp_path / "features" / "run.yaml", "--out", tmp_path / "f2")
    assert "4 videos done" in done.stdout
    for number in range(4):
        name = f"video{number}.safetensors"
        assert (tmp_path / "features" / name).read_bytes() == (tmp_path / "f2" / name).read_bytes()

    done = run(
        "train_vtt.py", "--data", "features", "--caption", "a.json", "--lm", tiny_lm, "--num_layers", "1", "--bs", "2",
        "--epochs", "1", "--device", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    infer = ["inference_vtt.py", "--model_dir", "out", "--top_p", "0.9", "--seed", "3", "--device", "cpu"]
    assert run(*infer, cwd=tmp_path).returncode == 0
    assert read(tmp_path / "out" / "run.yaml")["record"]["command"] == "train"
    record = read(tmp_path / "out" / "predictions.run.yaml")
    # What was left to the checkpoint and its run is written out.
    assert (record["split"], record["entry_length"], record["top_p"]) == ("test", 40, 0.9)
    assert (record["features"], record["annotations"]) == (str(tmp_path / "features"), [str(tmp_path / "a.json")])
    best = runs.file_digest(tmp_path / "out" / "best" / "model.safetensors")
    assert record["record"]["data"]["checkpoint"]["weights"] == best
    again = tmp_path / "again" / "p.json"
    done = run("inference_vtt.py", "--config", tmp_path / "out" / "predictions.run.yaml", "--out", again)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(file.read_text()) for file in (tmp_path / "out" / "predictions.json", again))
    assert {**first, "model": ""} == {**second, "model": ""}  # its path is absolute now
    assert again.with_name("p.run.yaml").exists()
    done = run(
        "inference_vtt.py", "--videos", "videos/video0.mp4", "--model_dir", "out", "--device", "cpu", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "predictions.run.yaml")["videos"] == [str(videos / "video0.mp4")]


class TestRecord:
    def test_the_revision_is_the_programs_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
            done = subprocess.run(
                ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        monkeypatch.setattr(runs, "__file__", str(package / "runs" / "record.py"))
        try:
            git("init", "-q")
        except FileNotFoundError:
            pytest.skip("git is not installed")
        assert runs.git_revision() is None  # the package is installed within a repository, but not of it
        git("add", "package")
        git("commit", "-qm", "first")
        assert runs.git_revision() == {"revision": git("rev-parse", "HEAD"), "changed": False}
        (package / "__init__.py").write_text("x = 1\n")
        assert runs.git_revision() == {"revision": git("rev-parse", "HEAD"), "changed": True}

    def test_the_set_of_videos_is_told_by_names_and_lengths(self, tmp_path: Path) -> None:
        files = {name: tmp_path / name for name in "ab"}
        for path in files.values():
            path.write_bytes(b"12")
        first = runs.videos_digest(files)
        assert runs.videos_digest(dict(reversed(files.items()))) == first
        files["b"].write_bytes(b"123")
        assert runs.videos_digest(files) != first
        assert runs.videos_digest({"a": files["a"], "c": files["b"]}) != runs.videos_digest(files)
        assert runs.videos_digest({"a\udcff": files["a"]}) != runs.videos_digest(files)  # a name that is no UTF-8


COMMANDS = [
    "extract", "train", "infer", "caption", "watch", "serve", "evaluate", "report", "search", "train-consensus",
    "train-retrieval", "evaluate-retrieval", "convert", "new-lm", "pack", "doctor", "demo",
]  # fmt: skip


class TestEveryCommand:
    def test_these_are_all(self) -> None:
        listed = run("clipcap-video", "--help").stdout
        boxes = str.maketrans(dict.fromkeys("│╭╮╰╯─", " "))
        words = [line.split() for line in listed.translate(boxes).partition("Commands")[2].splitlines()]
        assert [line[0] for line in words if line and line[0] in COMMANDS] == COMMANDS
        assert sum(
            1 for line in listed.partition("Commands")[2].splitlines() if line[:1] == "│" and line[2:3].isalpha()
        ) == len(COMMANDS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_takes_an_option_file_and_refuses_what_is_no_option(self, tmp_path: Path, command: str) -> None:
        file = tmp_path / "options.yaml"
        file.write_text("xyzzy: 3\n")
        done = run("clipcap-video", command, "--config", file, cwd=tmp_path)
        box = str.maketrans(dict.fromkeys("│\n", " "))
        assert "there is no option 'xyzzy'" in " ".join(done.stderr.translate(box).split())
        assert done.returncode == 2
        assert [path.name for path in tmp_path.iterdir()] == ["options.yaml"]

    def test_scores_and_page_are_made_again_from_their_records(self, tmp_path: Path) -> None:
        captions = tmp_path / "captions.csv"
        captions.write_text("video,caption,split\na,a dog runs,test\na,the dog,test\nb,a cat sleeps,test\n")
        entries = [Prediction(video, [Caption("a dog runs", -1.0, -1.0, 1)]) for video in "ab"]
        PredictionFile("model", "test", {}, entries).save(tmp_path / "p.json")
        options = ["--predictions", "p.json", "--caption", "captions.csv", "--bootstrap", "100", "--seed", "3"]
        done = run("clipcap-video", "evaluate", *options, "--out", "s.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        record = read(tmp_path / "s.run.yaml")
        assert (record["bootstrap"], record["annotations"]) == (100, [str(captions)])
        assert record["record"]["data"] == {
            "predictions": {str(tmp_path / "p.json"): runs.file_digest(tmp_path / "p.json")},
            "caption": {str(captions): runs.file_digest(captions)},
        }
        away = tmp_path / "away"
        away.mkdir()
        again = ["clipcap-video", "evaluate", "--config", tmp_path / "s.run.yaml", "--out", "t.json"]
        assert run(*again, cwd=away).returncode == 0
        assert (away / "t.json").read_text() == (tmp_path / "s.json").read_text()

        assert run("clipcap-video", "report", "p.json", "--out", "a.html", cwd=tmp_path).returncode == 0
        done = run("clipcap-video", "report", "--config", tmp_path / "a.run.yaml", "--out", "b.html", cwd=away)
        assert done.returncode == 0, done.stderr
        assert (away / "b.html").read_text() == (tmp_path / "a.html").read_text()

    def test_a_new_language_model_is_made_again_from_its_record(self, tmp_path: Path) -> None:
        write_annotations(tmp_path / "a.json", range(6), range(6, 7), range(7, 8))
        made = ["--vocab_size", "300", "--layers", "1", "--width", "8", "--heads", "1", "--seed", "4"]
        assert run("clipcap-video", "new-lm", "--caption", "a.json", "--out", "lm", *made, cwd=tmp_path).returncode == 0
        again = run("clipcap-video", "new-lm", "--config", "lm/run.yaml", "--out", "again", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        for file in ("model.safetensors", "tokenizer.json"):
            assert (tmp_path / "lm" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()

    def test_a_must_may_stand_in_the_file_and_bare_words_too(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("old: gone.pt\nout: new\n")
        assert "cannot read the weights gone.pt" in refused(
            "clipcap-video", "convert", "--config", "c.yaml", cwd=tmp_path
        )
        (tmp_path / "v.yaml").write_text("videos: [gone.mp4, other.mp4]\n")
        assert "nothing at gone.mp4" in refused("clipcap-video", "caption", "--config", "v.yaml", cwd=tmp_path)
        (tmp_path / "n.yaml").write_text("caption: a.json\nout: lm\nheads: 0\n")
        sentence = refused("clipcap-video", "new-lm", "--config", "n.yaml", cwd=tmp_path)
        assert "--heads must be at least 1" in sentence
