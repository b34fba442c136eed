"""Annotation readers: what they make of published and homemade files, and what they say about bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from tests.datasets.published import msrvtt, write


def test_several_files_merge(tmp_path: Path) -> None:
    first = write(tmp_path / "first.csv", "video,caption,split\nb.mp4,one,train\na.mp4,two,test\n")
    second = write(tmp_path / "second.csv", "video,caption,split\nc.mp4,three,train\nb.mp4,four,train\n")
    assert read_annotations([first, second]) == [
        VideoRecord("b", "train", ["one", "four"]),
        VideoRecord("a", "test", ["two"]),
        VideoRecord("c", "train", ["three"], origin=1),
    ]


def test_conflicting_splits_name_both_files(tmp_path: Path) -> None:
    first = write(tmp_path / "first.csv", "video,caption,split\na,one,train\n")
    second = write(tmp_path / "second.csv", "video,caption,split\na,one,test\n")
    with pytest.raises(ClipcapError, match=r"'a'.*'train' in .*first\.csv.*'test' in .*second\.csv"):
        read_annotations([first, second])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "a.json is empty; give"),
        ("a.json", '{"videos": [', r"a.json is not JSON \(line 1, column 13"),
        ("a.json", "3", "its top level is a number; expected"),
        ("a.json", {"images": []}, "an object with the fields images; expected"),
        ("a.json", {"sentences": []}, "lacks the field videos"),
        ("a.json", {"videos": []}, "lists no videos"),
        ("a.json", {"videos": {}, "sentences": {"x": 1}}, "sentences is not a list"),
        ("a.json", {"videos": [{"video_id": "v", "split": "train"}]}, "lacks the field sentences"),
        ("a.json", msrvtt(videos=[{"split": "train"}]), r"videos\[0\] lacks the field video_id"),
        ("a.json", msrvtt(videos=[{"video_id": "v"}]), r"videos\[0\] lacks the field split"),
        ("a.json", msrvtt(videos=[{"video_id": "v", "split": "train"}] * 2), r"videos\[1\] repeats video 'v'"),
        ("a.json", msrvtt(sentences=[{"caption": "x"}]), r"sentences\[0\] lacks the field video_id"),
        ("a.json", msrvtt(sentences=[{"video_id": "video0"}]), r"sentences\[0\] lacks the field caption"),
        ("a.json", msrvtt(sentences=[7]), r"sentences\[0\] lacks the field video_id"),
        (
            "a.json",
            msrvtt(sentences=[{"video_id": "video3", "caption": "x"}]),
            r"sentences\[0\] is about video 'video3', which videos does not list",
        ),
        ("a.csv", "video1,a dog\nvideo2,a cat\n", "line 1: the header is 'video1,a dog'"),
        ("a.csv", "video,caption\n", "lists no videos"),
        ("a.csv", "video,caption\nv,a dog, running\n", "line 2 has 3 columns and the header 2; put"),
        ("a.csv", "video,caption\nv,one\nw\n", "line 3 lacks the field caption"),
        ("a.csv", "video,caption\n,one\n", "line 2 lacks the field video"),
        ("a.csv", 'video,caption\nv,"open\n', "is not CSV"),
        ("a.csv", "video,caption,split\nv,x,train\nv,y,test\n", "line 3: video 'v' is in split 'test' here"),
        ("a.jsonl", '{"video": "v", "caption": "x"}\n{"video": \n', "line 2 is not JSON"),
        ("a.jsonl", '{"video": "v"}\n', "line 1 lacks the field caption"),
        ("a.jsonl", '{"video": "v", "captions": "x"}\n', "line 1 lacks the field caption"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
        ("a.json", [{"caption": "x"}], "entry 0 lacks the field video"),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(ClipcapError, match=message) as caught:
        read_annotations([write(tmp_path / name, content)])
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_other_encodings(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=r"no annotation file .*none\.json; check the path"):
        read_annotations([tmp_path / "none.json"])
    with pytest.raises(ClipcapError, match="is a folder"):
        read_annotations([tmp_path])
    (tmp_path / "latin.csv").write_bytes("video,caption\nv,café\n".encode("latin-1"))
    with pytest.raises(ClipcapError, match="is not UTF-8"):
        read_annotations([tmp_path / "latin.csv"])
