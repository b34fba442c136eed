"""MSR-VTT's json."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord, select, splits
from tests.datasets.published import msrvtt, write


def test_msrvtt_keeps_file_order_and_folds_white_space(tmp_path: Path) -> None:
    assert read_annotations([write(tmp_path / "train_val.json", msrvtt())]) == [
        VideoRecord("video2", "train", ["a car is shown", "a man drives"]),
        VideoRecord("video0", "validate", ["in a town"]),
        VideoRecord("video10", "test", []),
    ]


@pytest.mark.parametrize("sentences", ["absent", None, []])
def test_test_videos_need_no_sentences(tmp_path: Path, sentences: object) -> None:
    content = msrvtt(sentences=sentences)
    content["videos"] = [{"video_id": "video7", "split": "test"}]
    if sentences == "absent":
        del content["sentences"]
    assert read_annotations([write(tmp_path / "test.json", content)]) == [VideoRecord("video7", "test", [])]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validate", "dev"])
def test_names_of_the_validation_split_become_the_published_one(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.json", msrvtt(videos=[{"video_id": "v", "split": name}], sentences=[]))
    records = read_annotations([path])
    assert splits(records) == {"validate": 1}
    assert select(records, name) == records


def test_msrvtt_in_chinese_reads_as_in_english(tmp_path: Path) -> None:
    sentences = [{"sen_id": 0, "video_id": "video2", "caption": "一个男人在开车"}]
    records = read_annotations([write(tmp_path / "msrvtt_zh.json", msrvtt(sentences=sentences))])
    assert records[0] == VideoRecord("video2", "train", ["一个男人在开车"])
