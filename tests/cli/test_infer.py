"""`inference_vtt.py` and `clipcap-video infer`: what is written where, what stays, and how a stopped run goes on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.metrics import java
from clipcap_video.models.checkpoint import CONSENSUS
from clipcap_video.runs.record import file_digest
from tests.cli.conftest import Project, with_ranker
from tests.clips import write_clip
from tests.commands import predictions, refused, run
from tests.conftest import TinyProject


def infer(project: Project, *words: object, cwd: Path) -> Any:
    return run("clipcap-video", "infer", "clips", "--model_dir", project.out, "--device", "cpu", *words, cwd=cwd)


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


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official Java programs take seconds to start; tests/metrics/test_captioning.py runs them."""
    monkeypatch.setattr(java, "java_runs", lambda: False)


def test_captions_of_the_test_split_beside_the_checkpoint(project: Project) -> None:
    infer = ["inference_vtt.py", "--model_dir", project.out, "--device", "cpu", "--overwrite"]
    done = run(*infer, "--entry_length", "10")
    assert done.returncode == 0, done.stderr
    found = predictions(project.out / "predictions.json")
    assert list(found) == ["video5"]
    caption = found["video5"][0]
    assert caption["tokens"] <= 10
    assert caption["logprob"] == pytest.approx(caption["mean_logprob"] * (caption["tokens"] + 1), rel=1e-4)
    scores = json.loads((project.out / "scores.json").read_text())
    assert (scores["split"], scores["videos"]) == ("test", 1)
    assert {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"} <= scores.keys()


def test_videos_give_the_captions_of_their_features(project: Project, tmp_path: Path) -> None:
    beam = [
        "--model_dir",
        project.out,
        "--use_beam_search",
        "--num_return",
        "3",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    done = run("inference_vtt.py", *beam, "--videos", project.videos, "--report", "page.html", cwd=tmp_path)
    assert done.returncode == 1  # for the one bad video
    assert "could not read video6" in done.stderr
    assert "<html" in (tmp_path / "page.html").read_text()
    done = run("inference_vtt.py", *beam, "--data", project.features, "--out", tmp_path / "stored.json")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "scores.json").exists()  # no annotations were given
    from_videos, stored = predictions(tmp_path / "predictions.json"), predictions(tmp_path / "stored.json")
    assert from_videos.keys() == stored.keys()
    for video, captions in stored.items():
        assert [caption["text"] for caption in captions] == [caption["text"] for caption in from_videos[video]]
        assert len(captions) == 3


def test_batches_do_not_change_captions(project: Project, tmp_path: Path) -> None:
    for mode in (
        ["--use_beam_search"],
        ["--top_p", "0.9", "--temperature", "1.3"],
        ["--repetition_penalty", "1.5"],
    ):
        texts = []
        for size in (1, 4):
            done = run(
                "inference_vtt.py", "--model_dir", project.out, "--data", project.features, "--bs", size, *mode,
                "--precision", "fp32", "--device", "cpu", "--out", tmp_path / "p.json",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            texts.append({video: captions[0]["text"] for video, captions in predictions(tmp_path / "p.json").items()})
        assert texts[0] == texts[1]


def test_a_checkpoint_of_an_epoch(project: Project, tmp_path: Path) -> None:
    done = run("inference_vtt.py", "--model_dir", project.out, "--epoch", "1", "--device", "cpu", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert (project.out / "predictions.json").exists()
    assert "there are prefix-000, prefix-001" in refused(
        "inference_vtt.py", "--model_dir", project.out, "--epoch", "9", "--overwrite"
    )


def test_inference(project: Project, tmp_path: Path, tiny_project: TinyProject) -> None:
    infer = ["inference_vtt.py", "--device", "cpu", "--overwrite", "--model_dir"]
    assert "no model directory" in refused(*infer, tmp_path / "nowhere")
    assert "holds no config.json" in refused(*infer, tmp_path)
    other = refused(*infer, project.out, "--data", tiny_project.data)
    assert "trained on" in other
    assert "tiny-clip.pt" in other
    assert "contradicts" in refused(*infer, project.out, "--prefix_length", "40")
    assert "contradicts" in refused(*infer, project.out, "--cross")
    assert "split" in refused(*infer, project.out, "--split", "nowhere")
    assert "beam" in refused(*infer, project.out, "--use_beam_search", "--top_p", "0.5")
    assert "num_return" in refused(*infer, project.out, "--use_beam_search", "--beam_size", "5", "--num_return", "9")
    assert "positions" in refused(*infer, project.out, "--entry_length", "999")
    assert "--videos" in refused(*infer, project.out, "--encoder", "x.pt")
    assert "cannot write" in refused(*infer, project.out, "--out", tmp_path)
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(*infer, project.out, "--out", tmp_path / "file" / "p.json")
    run(*infer, project.out, "--prefix_length", "4", "--mapping_type", "transformer", "--num_layers", "2")


def test_inference_ranks_by_it_and_says_so(ranked: Path) -> None:
    with_it, without = ranked / "with.json", ranked / "without.json"
    for out, more in ((with_it, ()), (without, ("--use_beam_search", "--no_consensus"))):
        done = run("inference_vtt.py", "--model_dir", ranked / "out", "--split", "test", "--out", out, *more)
        assert done.returncode == 0, done.stderr
    content = json.loads(with_it.read_text())
    assert content["decoding"]["beam_size"] == 40
    assert content["decoding"]["use_beam_search"]
    assert all(entry["captions"][0]["expected_cider"] > 0 for entry in content["predictions"])
    assert all(0 < entry["captions"][0]["support"] <= 1 for entry in content["predictions"])
    record = yaml.safe_load(with_it.with_suffix(".run.yaml").read_text())["record"]
    assert record["data"]["checkpoint"]["consensus"] == file_digest(ranked / "out" / "best" / CONSENSUS)
    plain = json.loads(without.read_text())
    record = yaml.safe_load(without.with_suffix(".run.yaml").read_text())["record"]
    assert "consensus" not in record["data"]["checkpoint"]
    assert plain["decoding"]["beam_size"] == 5
    assert all(entry["captions"][0]["expected_cider"] is None for entry in plain["predictions"])
    assert all(entry["captions"][0]["support"] is None for entry in plain["predictions"])
    files = (file.with_suffix(".scores.json") for file in (with_it, without))
    scores = [json.loads(file.read_text())["CIDEr"] for file in files]
    assert scores[0] >= scores[1]
