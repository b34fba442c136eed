"""What a run over many videos leaves: which sidecars are kept, what is still to be done, when tables appear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcap_video.captioning.formats import Results
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.results import ResultFiles
from clipcap_video.errors import ClipcapError
from clipcap_video.runs.engine import Shard


def said(video: Path, text: str = "a dog") -> Prediction:
    return Prediction(video.stem, [Caption(text, -1.0, -0.5, 2)], path=str(video))


def videos_in(folder: Path, *names: str) -> dict[str, Path]:
    return {name: folder / f"{name}.mp4" for name in names}


def test_sidecars_that_are_there_stay_unless_overwritten(tmp_path: Path) -> None:
    videos = videos_in(tmp_path, "a", "b", "c")
    (tmp_path / "a.txt").write_text("mine\n")
    files = ResultFiles(tmp_path / "p.json", {}, ["txt", "srt"])
    files.add(said(videos["a"]))
    files.add(said(videos["b"]))
    assert (tmp_path / "a.txt").read_text() == "mine\n"
    assert (tmp_path / "b.txt").read_text() == "a dog\n"
    # Those with all that is asked for are done, c is in the log.
    assert files.missing(videos, {}) == {"c": videos["c"]}
    assert files.missing(videos, {"c": said(videos["c"])}) == {}
    again = ResultFiles(tmp_path / "p.json", {}, ["txt", "srt"], overwrite=True)
    assert again.missing(videos, {}) == videos
    again.add(said(videos["a"]))
    assert (tmp_path / "a.txt").read_text() == "a dog\n"


def test_a_table_needs_all_videos_and_ends_the_log(tmp_path: Path) -> None:
    videos = videos_in(tmp_path, "a", "b")
    told: list[str] = []
    files = ResultFiles(tmp_path / "p.json", {"json": tmp_path / "p.json"}, record=lambda: told.append("record"))
    with files.log({"model": "m"}) as log:
        log.append(said(videos["a"]))
    with files.log({"model": "m"}) as log:
        assert [one.video for one in log.predictions] == ["a"]
    with pytest.raises(ClipcapError, match="was begun with model m, this run has other"):
        files.log({"model": "other"})
    assert files.missing(videos, {"a": said(videos["a"])}) == {"b": videos["b"]}
    assert not (tmp_path / "p.json").exists()
    files.finish(Results([said(video) for video in videos.values()]))
    assert [one["video"] for one in json.loads((tmp_path / "p.json").read_text())["predictions"]] == ["a", "b"]
    assert told == ["record"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.json"]


def test_each_share_has_a_log_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "p.json"
    logs = {ResultFiles(table, {"json": table}, shard=Shard(number, 2)).partial for number in (1, 2)}
    assert len(logs | {ResultFiles(table, {"json": table}).partial}) == 3


def test_what_cannot_lie_beside_a_video_is_said(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path / "p.json", {}, ["vtt-descriptions"])
    with pytest.raises(ClipcapError, match="too long for a file; rename the video"):
        files.beside(tmp_path / f"{'x' * 245}.mp4")
    with pytest.raises(ClipcapError, match="give a folder here with --sidecar_dir"):
        files.beside(Path("s3:/bucket/clips/a.mp4"))
