"""The log of a long video's captions: what a stopped run left is continued, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.log import CaptionLog
from clipcap_video.captioning.long_videos import caption_long_video
from clipcap_video.errors import ClipcapError
from clipcap_video.video.segments import Segmentation
from tests.captioning.conftest import SETTINGS, contents, make
from tests.clips import write_clip


def test_a_line_cut_off_by_a_kill_is_made_again(captioner: Captioner, talk: Path, tmp_path: Path) -> None:
    make(captioner, talk, tmp_path)
    log = tmp_path / "talk.captions.jsonl"
    whole = contents(tmp_path)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    make(captioner, talk, tmp_path)
    assert contents(tmp_path) == whole


def test_overwriting_does_not_throw_away_an_unfinished_run(captioner: Captioner, talk: Path, tmp_path: Path) -> None:
    make(captioner, talk, tmp_path)
    log = tmp_path / "talk.captions.jsonl"
    whole = contents(tmp_path)
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
    assert make(captioner, talk, tmp_path, overwrite=True).skipped > 0
    assert contents(tmp_path) == whole
    assert make(captioner, talk, tmp_path, overwrite=True).skipped == 0


def test_a_log_of_other_choices_is_not_gone_on_with(captioner: Captioner, talk: Path, tmp_path: Path) -> None:
    make(captioner, talk, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ClipcapError, match="begun with segments shots of 2 to 20 s, this run has fixed:3"):
        caption_long_video(captioner, talk, Segmentation.parse("fixed:3"), SETTINGS, folder=tmp_path)
    with pytest.raises(ClipcapError, match="begun with decoding seed 0, this run has seed 1; give"):
        caption_long_video(captioner, talk, Segmentation(), replace(SETTINGS, seed=1), folder=tmp_path)
    (tmp_path / "other").mkdir()
    other = write_clip(tmp_path / "other" / "talk.mkv")
    with pytest.raises(ClipcapError, match="begun with video"):
        caption_long_video(captioner, other, Segmentation(), SETTINGS, folder=tmp_path)
    assert before == {name: (tmp_path / name).read_text() for name in before}


def test_a_file_of_another_kind_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "talk.captions.jsonl"
    file.write_text("[1, 2]\n")
    with pytest.raises(ClipcapError, match="no file of clipcap-video caption"):
        CaptionLog(file, {"video": "talk"})
    assert file.read_text() == "[1, 2]\n"
