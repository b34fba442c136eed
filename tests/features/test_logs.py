"""failures.jsonl and warnings.jsonl: what becomes a line, and which lines stay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipcap_video.errors import VideoError
from clipcap_video.features.encode import EncodedVideo
from clipcap_video.features.logs import ExtractionSummary, Failure, Log, Warned, keep_warnings
from clipcap_video.video.damage import Damage
from tests.tiny import fingerprint


def encoded(frames: int, warning: str | None = None, damage: Damage | None = None) -> EncodedVideo:
    return EncodedVideo(np.zeros((frames, 4), np.float32), np.arange(frames), damage or Damage(frames), warning)


def test_what_became_of_each_video_is_counted() -> None:
    summary = ExtractionSummary(fingerprint())
    assert summary.count("a", Path("a.mp4"), encoded(3)) is None
    damaged = summary.count("b", Path("b.mp4"), encoded(5, "1 of 60 frames is damaged", Damage(60, corrupt=1)))
    failed = summary.count("c", Path("c.mp4"), VideoError("c.mp4 is not a video"))
    assert (summary.done, summary.failed, summary.frames) == (2, 1, 8)
    assert summary.failures == [failed] == [Failure("c", "c.mp4", "c.mp4 is not a video")]
    assert summary.warnings == {"b": damaged}
    assert isinstance(damaged, Warned)
    assert (damaged.damage["frames"], damaged.damage["corrupt"]) == (60, 1)


def test_a_log_without_a_line_is_no_file_and_each_line_is_there_at_once(tmp_path: Path) -> None:
    file = tmp_path / "failures.jsonl"
    with Log(file):
        pass
    assert not file.exists()
    for append, expected in ((False, ["a"]), (True, ["a", "a"]), (False, ["a"])):
        with Log(file, append) as log:
            log.add(Failure("a", "a.mp4", "why"))
            assert [json.loads(line)["video"] for line in file.read_text().splitlines()] == expected


def test_warnings_of_videos_that_are_made_anew_go_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "warnings.jsonl"
    keep_warnings(file, {"a"})
    with Log(file) as log:
        for name in ("a", "b"):
            log.add(Warned(name, f"{name}.mp4", "damaged", {}))
    with file.open("a") as stream:
        stream.write('no line of ours\n{"video": "c", "pa')
    keep_warnings(file, {"a"})
    assert [json.loads(line)["video"] for line in file.read_text().splitlines()] == ["b"]
    keep_warnings(file, {"b"})
    assert not file.exists()
