"""`clipcap-video report`: from a predictions.json, videos, features and annotations to a page."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from clipcap_video.captioning.predictions import Prediction, PredictionFile
from clipcap_video.errors import VideoError
from clipcap_video.metrics import java
from clipcap_video.report.entries import Pictures
from clipcap_video.report.page import encode_picture
from clipcap_video.report.run import drawn
from clipcap_video.video.reader import read_frames, read_frames_at
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import numbered_frame, numbers_of_grid, write_clip
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


def test_a_sample_is_drawn_by_its_seed(project: Project) -> None:
    predictions = PredictionFile.load(project.predictions).predictions
    assert drawn(predictions, 2, 3) == drawn(list(reversed(predictions)), 2, 3)[::-1]
    assert {one.video for seed in range(20) for one in drawn(predictions, 1, seed)} == {p.video for p in predictions}
    assert drawn(predictions, 9, 0) == predictions


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


def test_frames_at_times_are_the_frames_that_were_sampled(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames=30, first=7)
    images, times = read_frames(clip, SamplingSpec(frames=6))
    # As a predictions.json has them.
    again = read_frames_at(clip, [round(float(time), 3) for time in times], np.asarray)
    assert len(again) == 6
    for image, other in zip(images, again, strict=True):
        assert other is not None
        assert (image == other).all()
    # From the middle on, most of what comes before is skipped, and the frames are the same.
    for image, other in zip(images[3:], read_frames_at(clip, times[3:].tolist(), np.asarray), strict=True):
        assert other is not None
        assert (image == other).all()
    assert [image is None for image in read_frames_at(clip, [0.0, 1e6], np.asarray)] == [False, True]
    with pytest.raises(VideoError):
        read_frames_at(tmp_path / "nothing.mp4", [0.0], np.asarray)


def test_pictures_of_many_videos_are_smaller() -> None:
    assert Pictures.for_page_of(300) == Pictures(8, 240, 75)
    assert Pictures.for_page_of(301) == Pictures(5, 160, 55)
    assert Pictures.for_page_of(2000, frames=2, side=99) == Pictures(2, 99, 55)
    # A busy picture in the small size: at five a video, 2,000 videos stay below 40 MB with room for words.
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8), (0, 0), 3)
    assert len(encode_picture(noise, 160, 55).data) * 4 / 3 * 5 * 2000 < 40e6


def test_pictures_show_the_frames_at_their_times(project: Project, tmp_path: Path) -> None:
    from clipcap_video.report.entries import _frames

    path = write_clip(tmp_path / "clip.mkv", frames=40)
    images, times = read_frames(path, SamplingSpec(frames=10))
    prediction = Prediction("clip", [], [float(time) for time in times], path=str(path))
    (frames,) = _frames([prediction], Pictures(4, 64, 95))
    blocks = []
    for frame in frames:
        assert frame.picture is not None
        bgr = cv2.imdecode(np.frombuffer(frame.picture.data, np.uint8), cv2.IMREAD_COLOR)
        blocks.append(bgr.mean(axis=2).reshape(3, 16, 4, 16).mean(axis=(1, 3)).reshape(-1))
    assert images[0].shape == numbered_frame(0).shape
    shown = numbers_of_grid(np.stack(blocks))
    chosen = [0, 3, 6, 9]  # of ten sampled, four evenly spread
    assert [frame.seconds for frame in frames] == [float(times[place]) for place in chosen]
    assert shown == [round(place * 39 / 9) if place in (0, 9) else int(place * 39 / 9) for place in chosen]


def test_segments_of_one_video_show_what_each_would_by_itself(tmp_path: Path) -> None:
    from clipcap_video.report.entries import LONGEST_RUN, _frames, _runs

    path, other = write_clip(tmp_path / "a.mkv", frames=60), write_clip(tmp_path / "b.mkv", frames=60)
    _, times = read_frames(path, SamplingSpec(frames=60))
    segments = [
        Prediction("a", [], times[first : first + 20].tolist(), path=str(path), start=1.0) for first in (0, 20, 40)
    ]
    elsewhere = replace(segments[0], path=str(other))
    overlapping = replace(segments[1], timestamps=times[35:50].tolist())
    unknown = replace(segments[1], timestamps=[])
    given = [*segments, elsewhere, segments[1], overlapping, unknown, segments[2]]
    runs = list(_runs(given))
    assert [len(run) for run in runs] == [3, 1, 1, 1, 1, 1]
    assert [found for run in runs for found in run] == given
    assert [len(run) for run in _runs([replace(segments[0], timestamps=[1.0])] * (LONGEST_RUN + 1))] == [LONGEST_RUN, 1]
    small = Pictures(4, 64, 95)
    assert _frames(segments, small) == [_frames([segment], small)[0] for segment in segments]
    pictures = {frame.picture for part in _frames(segments, small) for frame in part}
    assert len(pictures) == 12  # each of its own place
