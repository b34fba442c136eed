"""`clipcap-video report`: from a predictions.json, videos, features and annotations to a page."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from clipcap_video.captioning.predictions import PredictionFile
from clipcap_video.metrics import java
from tests.clips import write_clip
from tests.commands import refused, run
from tests.report.test_page import Page
from tests.tiny import captions_of, write_annotations
from tests.tiny_clip import save_tiny_clip


@dataclass(frozen=True)
class Project:
    videos: Path
    features: Path
    annotations: Path
    out: Path
    predictions: Path


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Project:
    folder = tmp_path_factory.mktemp("report")
    made = Project(
        folder / "videos", folder / "features", folder / "captions.json", folder / "out", folder / "predictions.json"
    )
    made.videos.mkdir()
    for number in range(5):
        write_clip(made.videos / f"video{number}.mp4", frames=(12, 20, 20, 1, 30)[number], first=100 * number)
    write_annotations(made.annotations, range(2), range(2, 3), range(3, 5))
    encoder = save_tiny_clip(folder / "tiny-clip.pt")
    for command in (
        ["extract_features.py", "--videos", made.videos, "--out", made.features, "--encoder", encoder, "--frames", 12],
        [
            "train_vtt.py", "--data", made.features, "--caption", made.annotations, "--out_dir", made.out, "--lm",
            tiny_lm, "--only_prefix", "--num_layers", "1", "--epochs", "1", "--bs", "2", "--device", "cpu",
        ],
        [
            "inference_vtt.py", "--model_dir", made.out, "--data", made.features, "--use_beam_search", "--num_return",
            "3", "--out", made.predictions,
        ],
    ):  # fmt: skip
        done = run(*command)
        assert done.returncode == 0, done.stderr
    return made


def page_of(file: Path) -> Page:
    return Page(file.read_text("utf-8"))


def owed(page: Page, card: int) -> list[str]:
    return [data for tag, _, data in page.cards[card]["text"] if tag == "span" and data.endswith("%")]


def test_frames_evidence_references_and_cider(project: Project, tmp_path: Path) -> None:
    done = run(
        "clipcap-video", "report", project.predictions, "--out", tmp_path / "new" / "page.html", "--videos",
        project.videos, "--data", project.features, "--caption", project.annotations, "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    page = page_of(tmp_path / "new" / "page.html")
    found = PredictionFile.load(project.predictions).predictions
    assert [page.texts(card, "h2") for card in range(5)] == [[prediction.video] for prediction in found]
    for card, prediction in enumerate(found):
        number = int(prediction.video.removeprefix("video"))
        texts = [data for _, _, data in page.cards[card]["text"]]
        assert [caption.text for caption in prediction.captions] == [
            data for tag, kind, data in page.cards[card]["text"] if kind == "find" and tag == "span"
        ]
        assert set(captions_of(number)) <= set(texts)
        assert "data-cider" in page.cards[card]["attributes"][0]
        # Twelve frames in eight stretches; one frame alone has no evidence.
        assert len(page.cards[card]["images"]) == (1 if number == 3 else 8)
        assert len(owed(page, card)) == (0 if number == 3 else 8)


def test_what_is_missing_is_said(project: Project, tmp_path: Path) -> None:
    done = run("clipcap-video", "report", project.predictions, "--out", tmp_path / "page.html")
    assert done.returncode == 0
    assert "no evidence: give the features with --features" in done.stderr
    assert "5 of 5 videos were not found" in done.stderr
    page = page_of(tmp_path / "page.html")
    assert len(page.cards) == 5
    assert not page.cards[0]["images"]


def test_evidence_of_features_without_videos_is_bars_and_times(project: Project, tmp_path: Path) -> None:
    done = run(
        "clipcap-video", "report", project.predictions, "--out", tmp_path / "page.html", "--data", project.features
    )
    assert done.returncode == 0, done.stderr
    page = page_of(tmp_path / "page.html")
    assert not page.cards[0]["images"]
    assert len(owed(page, 0)) == 8


def test_inference_makes_the_same_page_and_keeps_the_evidence(project: Project, tmp_path: Path) -> None:
    infer = ["inference_vtt.py", "--model_dir", project.out, "--videos", project.videos, "--device", "cpu"]
    done = run(*infer, "--report", "a.html", "--caption", project.annotations, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [len(found.evidence) for found in PredictionFile.load(tmp_path / "predictions.json").predictions] == [
        8, 8, 8, 0, 8,
    ]  # fmt: skip
    # The file knows frames, times and evidence: nothing else is needed for the page.
    done = run("clipcap-video", "report", "predictions.json", "--caption", project.annotations, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = page_of(tmp_path / "a.html"), page_of(tmp_path / "report.html")
    assert first.cards == second.cards
    assert "no evidence" not in done.stderr
    # Without a page nobody waits for the evidence.
    run(*infer, "--out", "plain.json", cwd=tmp_path)
    assert not any(entry["evidence"] for entry in json.loads((tmp_path / "plain.json").read_text())["predictions"])


def test_size_and_number_of_frames(project: Project, tmp_path: Path) -> None:
    report = ["clipcap-video", "report", project.predictions, "--videos", project.videos, "--out"]
    assert run(*report, tmp_path / "a.html", "--frames", "3", "--frame_size", "32").returncode == 0
    page = page_of(tmp_path / "a.html")
    assert [(a["width"], a["height"]) for a in page.cards[0]["images"]] == [("32", "24")] * 3
    assert "--frames must lie between" in refused(*report, tmp_path / "b.html", "--frames", "0")
    assert "--frame_size must lie" in refused(*report, tmp_path / "b.html", "--frame_size", "2")
    assert not (tmp_path / "b.html").exists()


def test_bad_input_is_one_sentence(project: Project, tmp_path: Path) -> None:
    report = ["clipcap-video", "report", project.predictions, "--out", tmp_path / "page.html"]
    assert "no predictions at" in refused("clipcap-video", "report", tmp_path / "nothing.json")
    (tmp_path / "other").mkdir()
    write_clip(tmp_path / "other" / "holiday.mp4")
    assert "none of the 1 videos given" in refused(*report, "--videos", tmp_path / "other")
    file = PredictionFile.load(project.predictions)
    replace(file, model="/nowhere/out").save(tmp_path / "moved.json")
    moved = ["clipcap-video", "report", tmp_path / "moved.json", "--out", tmp_path / "page.html"]
    assert "give it with --model_dir" in refused(*moved, "--data", project.features)
    assert run(*moved, "--data", project.features, "--model_dir", project.out, "--device", "cpu").returncode == 0
    assert "is a folder" in refused("clipcap-video", "report", project.predictions, "--out", tmp_path)
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(
        "clipcap-video", "report", project.predictions, "--out", tmp_path / "file" / "p"
    )


def test_verdicts_of_people_are_shown_and_counted(project: Project, tmp_path: Path) -> None:
    judged = tmp_path / "judged.csv"
    judged.write_text("video,judgement,note\nvideo4,Wrong,<a cat>\nvideo3,right,\nvideo9,partly,not here\n")
    done = run("clipcap-video", "report", project.predictions, "--out", tmp_path / "page.html", "--judged", judged)
    assert done.returncode == 0, done.stderr
    page = page_of(tmp_path / "page.html")
    names = [page.texts(card, "h2")[0] for card in range(len(page.cards))]
    cat, other = (page.cards[names.index(video)]["text"] for video in ("video4", "video3"))
    assert next(text for tag, _, text in cat if tag == "b") == "wrong"
    assert "<a cat>" in [text for _, _, text in cat]
    assert next(text for tag, _, text in other if tag == "b") == "right"
    assert "1 right, 0 partly, 1 wrong" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video,judgement\nvideo3,good\n", "line 2: 'good' is no judgement"),
        ("video,verdict\nvideo3,right\n", "no column 'judgement'"),
        ("video,judgement\nvideo3,right\nvideo3,wrong\n", "line 3: 'video3' is judged a second time"),
        ("video,judgement\nother,right\n", "none of the videos"),
        (None, "cannot read the judgements"),
    ],
)
def test_bad_verdicts_are_one_sentence(project: Project, tmp_path: Path, text: str | None, said: str) -> None:
    judged, out = tmp_path / "judged.csv", tmp_path / "page.html"
    if text is not None:
        judged.write_text(text)
    assert said in refused("clipcap-video", "report", project.predictions, "--out", out, "--judged", judged)
    assert not out.exists()


def test_a_page_of_a_sample(project: Project, tmp_path: Path) -> None:
    done = run("clipcap-video", "report", project.predictions, "--out", tmp_path / "page.html", "--sample", "2")
    assert done.returncode == 0, done.stderr
    assert len(page_of(tmp_path / "page.html").cards) == 2
    assert "2 of 5, seed 0" in (tmp_path / "page.html").read_text()
    assert "--sample must be at least 0" in refused("clipcap-video", "report", project.predictions, "--sample", "-1")


def test_a_video_that_broke_since_has_a_card_without_frames(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.videos, tmp_path / "videos")
    (tmp_path / "videos" / "video1.mp4").write_text("no video")
    done = run(
        "clipcap-video", "report", project.predictions, "--videos", tmp_path / "videos", "--out", tmp_path / "p.html"
    )
    assert done.returncode == 0, done.stderr
    page = page_of(tmp_path / "p.html")
    cards = {page.texts(card, "h2")[0]: len(page.cards[card]["images"]) for card in range(5)}
    assert cards == {"video0": 8, "video1": 0, "video2": 8, "video3": 1, "video4": 8}
