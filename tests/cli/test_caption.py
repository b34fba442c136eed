"""`clipcap-video caption`: subtitles of long videos and tables of many."""

from __future__ import annotations

import csv
import json
from html import escape
from pathlib import Path

import pytest
import yaml

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.models.checkpoint import save_checkpoint
from clipcap_video.report.page import format_seconds
from tests.captioning.conftest import captioner  # noqa: F401  (a fixture)
from tests.cli.conftest import Project
from tests.clips import write_shots
from tests.commands import refused, run


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


@pytest.fixture(scope="module")
def model(captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("model") / "out"
    save_checkpoint(folder, captioner.model, captioner.info)
    return folder


def test_a_folder_of_videos(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shots(tmp_path / f"{name}.mp4", [30, 30])
    (tmp_path / "notes.mp4").write_text("this is no video")
    done = run("clipcap-video", "caption", tmp_path, "--model_dir", model, "--segments", "fixed:2", "--vtt")
    assert done.returncode == 1
    assert "could not read notes: " in done.stderr
    assert sorted(contents_of(tmp_path)) == ["a.mp4", "a.vtt", "b.mp4", "b.vtt", "notes.mp4"]
    assert "0:00 - 0:0" in done.stdout


def test_a_folder_that_was_done_in_part_goes_on(model: Path, tmp_path: Path) -> None:
    write_shots(tmp_path / "a.mp4", [30, 30])
    command = ["clipcap-video", "caption", tmp_path, "--model_dir", model, "--segments", "fixed:2"]
    assert run(*command).returncode == 0
    (tmp_path / "a.srt").write_text("mine")
    write_shots(tmp_path / "b.mp4", [30, 30])
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert f"a.mp4 is left out: {tmp_path / 'a.srt'} is there already; give --overwrite" in done.stdout
    assert (tmp_path / "a.srt").read_text() == "mine"
    assert contents_of(tmp_path) == ["a.mp4", "a.srt", "a.vtt", "b.mp4", "b.srt", "b.vtt"]


def test_what_stands_in_the_way_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "a.mp4", [30])
    (tmp_path / "a.vtt").write_text("mine")
    assert "a.vtt is there already" in refused("clipcap-video", "caption", clip, "--model_dir", tmp_path / "none")


def test_the_segments_as_a_page(model: Path, tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "a.mp4", [30, 30, 40])
    command = ["clipcap-video", "caption", clip, "--model_dir", model, "--segments", "fixed:3", "--jsonl"]
    assert run(*command).returncode == 0
    made = ["a.captions.jsonl", "a.captions.run.yaml", "a.mp4", "a.srt", "a.vtt"]
    assert contents_of(tmp_path) == made
    record = yaml.safe_load((tmp_path / "a.captions.run.yaml").read_text())
    assert (record["videos"], record["segments"]) == ([str(clip)], "fixed:3")
    assert set(record["record"]["data"]) == {"videos", "model_dir"}
    log, page = tmp_path / "a.captions.jsonl", tmp_path / "a.html"
    done = run("clipcap-video", "report", log, "--out", page)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    entries = [line for line in lines if "captions" in line]
    text = page.read_text()
    assert text.count('<article class="card"') == len(entries) > 1
    assert f'<dt>segments</dt><dd class="num">{len(entries)}</dd>' in text
    for entry in entries:
        assert escape(entry["captions"][0]["text"]) in text
        assert f"{format_seconds(entry['start'])} to {format_seconds(entry['end'])}" in text
    assert "about whole videos" in refused("clipcap-video", "report", log, "--caption", tmp_path / "c.csv")
    (tmp_path / "b.captions.jsonl").write_text("{}\n")
    assert "no file of clipcap-video caption" in refused(
        "clipcap-video", "report", tmp_path / "b.captions.jsonl", "--out", tmp_path / "b.html"
    )


def test_both_kinds_unless_told_otherwise_and_where_it_is_told(model: Path, tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "a.mp4", [30, 30])
    done = run("clipcap-video", "caption", clip, "--model_dir", model, "--out_dir", tmp_path / "new" / "place")
    assert done.returncode == 0, done.stderr
    assert contents_of(tmp_path / "new" / "place") == ["a.srt", "a.vtt"]
    assert f"written: {tmp_path / 'new' / 'place' / 'a.srt'}" in done.stdout


def test_one_sentence_for_what_is_wrong(tmp_path: Path) -> None:
    assert "no video given" in refused("clipcap-video", "caption")
    assert "nothing at" in refused("clipcap-video", "caption", tmp_path / "a.mp4")
    clip = write_shots(tmp_path / "a.mp4", [30])
    assert "unknown segments 'scenes'" in refused("clipcap-video", "caption", clip, "--segments", "scenes")


def contents_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
