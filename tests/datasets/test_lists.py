"""Lists of the videos of a split, as published."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord, splits
from clipcap_video.errors import ClipcapError
from tests.datasets.published import msrvtt, write

# MSR-VTT ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def msrvtt_data(tmp_path: Path) -> Path:
    """MSRVTT_data.json: all videos and sentences, under the official split."""
    videos = [
        {"video_id": f"video{number}", "split": split, "category": 1, "url": "https://www.youtube.com/watch?v=x",
         "start time": 0.0, "end time": 10.0, "id": number}
        for number, split in enumerate(["train", "train", "validate", "test", "test", "test"])
    ]  # fmt: skip
    sentences = [
        {"caption": f"{word} of {number}", "video_id": f"video{number}", "sen_id": 10 * number + turn}
        for number in range(6)
        for turn, word in enumerate(("one", "two"))
    ]
    return write(tmp_path / "MSRVTT_data.json", msrvtt(videos=videos, sentences=sentences))


def jsfusion_test(folder: Path) -> Path:
    text = (
        "key,vid_key,video_id,sentence\n"
        "ret0,msr4,video4,a person is connecting something to system\n"
        'ret1,msr5,video5,"a little girl, does gymnastics"\n'
    )
    return write(folder / "MSRVTT_JSFUSION_test.csv", text)


def test_msrvtt_full_split_is_that_of_the_json(msrvtt_data: Path) -> None:
    assert splits(read_annotations([msrvtt_data])) == {"train": 2, "validate": 1, "test": 3}


@pytest.mark.parametrize(
    ("name", "train"),
    [("MSRVTT_train.9k.csv", [0, 1, 2, 3]), ("MSRVTT_train.7k.csv", [0, 1, 2])],
)
def test_msrvtt_1k_test_and_its_two_training_lists(
    tmp_path: Path, msrvtt_data: Path, name: str, train: list[int]
) -> None:
    listed = write(tmp_path / name, "video_id\n" + "".join(f"video{number}\n" for number in train))
    for order in ([msrvtt_data, listed, jsfusion_test(tmp_path)], [jsfusion_test(tmp_path), listed, msrvtt_data]):
        records = {record.video_id: record for record in read_annotations(order)}
        # video2, officially for validation, is trained on; of the test videos one sentence each is the query.
        assert {name for name, record in records.items() if record.split == "train"} == {f"video{n}" for n in train}
        assert records["video2"].captions == ["one of 2", "two of 2"]
        assert records["video5"] == VideoRecord("video5", "test", ["a little girl, does gymnastics"])
        assert len(records) == len(train) + 2


def test_msrvtt_test_list_alone(tmp_path: Path) -> None:
    records = read_annotations([jsfusion_test(tmp_path)])
    assert [(record.video_id, record.split, len(record.captions)) for record in records] == [
        ("video4", "test", 1),
        ("video5", "test", 1),
    ]


def test_lists_that_overlap_are_refused(tmp_path: Path, msrvtt_data: Path) -> None:
    train = write(tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo4\n")
    with pytest.raises(ClipcapError, match=r"'video4' is in split 'train' in .*9k\.csv and in split 'test'"):
        read_annotations([msrvtt_data, train, jsfusion_test(tmp_path)])
