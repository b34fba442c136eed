"""`--to` of infer and caption: what is written where, what stays, and how an interrupted run goes on."""

# ruff: noqa: F811
from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.consensus.network import ConsensusConfig, ConsensusRanker, NgramTable
from clipcap_video.models.checkpoint import CONSENSUS
from tests.cli.test_cli import Project, project, refused, run  # noqa: F401  (a fixture)
from tests.clips import write_clip
from tests.tiny import captions_of
from tests.tiny_clip import EMBED_DIM


@pytest.fixture
def clips(project: Project, tmp_path: Path) -> Path:
    shutil.copytree(project.videos, tmp_path / "clips")
    (tmp_path / "clips" / "video6.mp4").unlink()
    return tmp_path / "clips"


def infer(project: Project, *words: object, cwd: Path) -> Any:
    return run("clipcap-video", "infer", "clips", "--model_dir", project.out, "--device", "cpu", *words, cwd=cwd)


def with_ranker(project: Project, folder: Path, unsure_below: float) -> Path:
    """A copy of the model that has a consensus network."""
    model = shutil.copytree(project.out / "best", folder / "ranked")
    videos = [[caption.split() for caption in captions_of(number)] for number in range(6)]
    config = ConsensusConfig(EMBED_DIM, 4, unsure_below=unsure_below)
    ConsensusRanker(config, NgramTable.of(videos, 50)).save(model / CONSENSUS)
    return model


class TestInfer:
    def test_texts_beside_the_videos_that_stay_as_they_are(
        self,
        project: Project,
        clips: Path,
        tmp_path: Path,
    ) -> None:
        (clips / "video1.txt").write_text("mine\n")
        done = infer(project, "--to", "txt", "--prefix_text", "a clip of ", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        texts = {file.stem: file.read_text() for file in clips.glob("*.txt")}
        assert sorted(texts) == [f"video{number}" for number in range(6)]
        assert texts["video1"] == "mine\n"
        assert all(text.startswith("a clip of ") for name, text in texts.items() if name != "video1")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["clips"]
        # All there: nothing to do. A new clip alone is captioned.
        shutil.copy(clips / "video0.mp4", clips / "new.mp4")
        done = infer(project, "--to", "txt", "--prefix_text", "a clip of ", cwd=tmp_path)
        assert "6 of 7 videos done before" in done.stderr
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["new"]
        assert infer(project, "--to", "txt", "--overwrite", cwd=tmp_path).returncode == 0
        assert (clips / "video1.txt").read_text() != "mine\n"

    def test_what_lies_beside_the_videos_makes_no_other_input_of_them(
        self, project: Project, clips: Path, tmp_path: Path
    ) -> None:
        for words in ([], ["--to", "srt", "--to", "ass"], ["--to", "json", "--use_beam_search"]):
            done = infer(project, *words, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        write_clip(clips / "video9.mp4")
        done = infer(project, cwd=tmp_path)
        assert "predictions.json is there already" in done.stderr

    def test_in_a_folder_and_tables_under_one_stem(
        self,
        project: Project,
        clips: Path,
        tmp_path: Path,
    ) -> None:
        (clips / "bad.mp4").write_text("this is no video")
        words = ["--to", "txt", "--to", "json", "--to", "csv", "--sidecar_dir", "texts", "--out", "run/p.json"]
        done = infer(project, *words, cwd=tmp_path)
        assert done.returncode == 1
        assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["p.csv", "p.json", "p.run.yaml"]
        assert len(list((tmp_path / "texts").glob("*.txt"))) == 6
        rows = list(csv.DictReader((tmp_path / "run" / "p.csv").open(newline="")))
        assert [row["video"] for row in rows] == [*(f"video{number}" for number in range(6)), "bad"]
        assert "is not a video" in rows[-1]["error"]

    @pytest.mark.parametrize("break_at", [1, 4])
    def test_an_interrupted_run_goes_on_and_ends_the_same(
        self,
        project: Project,
        clips: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        break_at: int,
    ) -> None:
        assert infer(project, "--bs", "2", "--out", "whole.json", cwd=tmp_path).returncode == 0
        captioned: list[str] = []
        real = Captioner.caption_store

        def broken(self: Captioner, store: Any, ids: Any, *rest: Any, **more: Any) -> Any:
            if len(captioned) >= break_at:
                raise KeyboardInterrupt
            captioned.extend(ids)
            return real(self, store, ids, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(Captioner, "caption_store", broken)
            assert infer(project, "--bs", "2", "--out", "parts.json", cwd=tmp_path).returncode == 130
        assert not (tmp_path / "parts.json").exists()
        assert "was begun with decoding" in refused(
            "clipcap-video", "infer", "clips", "--model_dir", project.out, "--use_beam_search", "--out", "parts.json",
            "--device", "cpu", cwd=tmp_path,
        )  # fmt: skip
        done = infer(project, "--bs", "2", "--out", "parts.json", cwd=tmp_path)
        assert f"{len(captioned)} of 6 videos done before" in done.stderr
        whole, parts = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "parts"))
        for one, other in zip(whole["predictions"], parts["predictions"], strict=True):
            assert (one["video"], one["captions"][0]["text"]) == (other["video"], other["captions"][0]["text"])
        assert not (tmp_path / "parts.partial.jsonl").exists()

    def test_unsure_is_said_and_left_out(self, project: Project, clips: Path, tmp_path: Path) -> None:
        model = with_ranker(project, tmp_path, 1.01)
        done = infer(project, "--model_dir", model, "--to", "txt", "--to", "jsonl", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert all("(support 0." in line and line.endswith("unsure)") for line in done.stdout.splitlines()[:6])
        assert all(file.read_text().startswith("(unsure) ") for file in clips.glob("*.txt"))
        assert all(json.loads(line)["unsure"] for line in (tmp_path / "predictions.jsonl").open())
        shutil.rmtree(clips)
        shutil.copytree(project.videos, clips)
        infer(project, "--model_dir", model, "--to", "txt", "--min_support", "1", cwd=tmp_path)
        assert not list(clips.glob("*.txt"))

    def test_what_makes_no_sense_is_one_sentence(
        self,
        project: Project,
        clips: Path,
        tmp_path: Path,
    ) -> None:
        infer_ = ["clipcap-video", "infer", "clips", "--model_dir", project.out]
        assert "--to must be one of json, jsonl" in refused(*infer_, "--to", "docx", cwd=tmp_path)
        said = refused(*infer_, "--to", "txt", "--min_support", "0.5", cwd=tmp_path)
        assert "uses no consensus network; make one with clipcap-video train-consensus" in said
        assert "is there already" in refused_after(tmp_path / "predictions.csv", *infer_, "--to", "csv", cwd=tmp_path)


def refused_after(file: Path, *words: object, cwd: Path) -> str:
    file.write_text("mine")
    said = refused(*words, cwd=cwd)
    assert file.read_text() == "mine"
    return said


def test_caption_writes_tables_of_all_videos(project: Project, clips: Path, tmp_path: Path) -> None:
    caption = ["clipcap-video", "caption", "clips", "--model_dir", project.out, "--device", "cpu", "--out", "made"]
    done = run(*caption, "--to", "vtt-descriptions", "--to", "csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "made" / "captions.csv").open(newline="")))
    assert {row["video"] for row in rows} == {f"video{number}" for number in range(6)}
    assert all(float(row["end"]) > float(row["start"]) for row in rows)
    assert len(list((tmp_path / "made").glob("*.descriptions.vtt"))) == 6
    # Again, from what is there: no video is captioned anew.
    again = run(*caption, "--to", "csv", "--to", "srt", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 6
    assert list(csv.DictReader((tmp_path / "made" / "captions.csv").open(newline=""))) == rows
