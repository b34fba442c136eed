"""What the doctor says of annotations that do not fit their videos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.doctor import examine
from clipcap_video.errors import ClipcapError
from tests.clips import write_clip
from tests.doctor.conftest import kinds, look
from tests.tiny import write_annotations


class TestDataSets:
    @pytest.fixture
    def clips(self, tmp_path: Path) -> Path:
        folder = tmp_path / "videos"
        folder.mkdir()
        for number in range(5):
            write_clip(folder / f"video{number}.mp4", frames=6 + number)
        return folder

    def test_captions_without_video_and_videos_without_captions(self, clips: Path, tmp_path: Path) -> None:
        annotations = write_annotations(tmp_path / "a.json", range(3), range(7, 8), range(8, 9))
        assert look(clips, caption=[annotations]) == {
            "missing_video": ["video7", "video8"], "uncaptioned": ["video3", "video4"],
        }  # fmt: skip
        # A file of test videos comes without captions; a training video without one is of no use.
        content = json.loads(annotations.read_text())
        content["sentences"] = [one for one in content["sentences"] if one["video_id"] not in ("video1", "video8")]
        annotations.write_text(json.dumps(content))
        assert look(clips, caption=[annotations])["uncaptioned"] == ["video1", "video3", "video4"]

    def test_overlapping_splits(self, clips: Path, tmp_path: Path) -> None:
        first = write_annotations(tmp_path / "a.json", range(4), range(4, 5))
        second = write_annotations(tmp_path / "b.json", range(0), range(0), range(3, 5))
        assert look(clips, caption=[first, second]) == {"split_overlap": ["video3", "video4"]}
        rows = ["video,caption,split", "video1,a dog,train", "video1,a cat,test", "video2,a man,val", "video2,x,train"]
        (tmp_path / "c.csv").write_text("\n".join(rows))
        assert look(clips, caption=[tmp_path / "c.csv"]) == {"split_overlap": ["video1", "video2"]}
        with pytest.raises(ClipcapError, match="belongs to one split"):
            read_annotations([tmp_path / "c.csv"])

    def test_one_file_in_two_splits_under_two_names(self, clips: Path, tmp_path: Path) -> None:
        annotations = write_annotations(tmp_path / "a.json", range(4), range(4, 5))
        shutil.copy(clips / "video0.mp4", clips / "video1.mp4")  # both of the training split
        assert look(clips, caption=[annotations]) == {"duplicate": ["video0"]}
        shutil.copy(clips / "video0.mp4", clips / "video4.mp4")
        result = examine([clips], [annotations], progress=False)
        assert kinds(result) == {"duplicate": ["video0"], "split_overlap": ["video0"]}
        assert "video0 (train), video1 (train), video4 (validate)" in result.findings[1].message

    def test_annotations_that_cannot_be_read_hide_nothing_else(self, clips: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.json").write_text("{")
        (clips / "video0.mp4").write_bytes(b"")
        result = examine([clips], [tmp_path / "bad.json"], progress=False)
        assert kinds(result) == {"empty": ["video0"], "annotations": ["bad.json"]}
        assert result.notes
