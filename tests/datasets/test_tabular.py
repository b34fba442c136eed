"""Annotations of one's own: CSV, TSV, JSONL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.tabular import video_id_of
from clipcap_video.errors import ClipcapError
from tests.datasets.published import write

EXPECTED_TABLE = [
    VideoRecord("clip1", "train", ['a "red", round ball', "it rolls"]),
    VideoRecord("clip2", "validate", ["éclair"]),
]


def test_csv_with_byte_order_mark_crlf_quotes_and_blank_lines(tmp_path: Path) -> None:
    text = (
        "\ufeffvideo,caption,split\r\n"
        'videos/clip1.mp4,"a ""red"", round ball",train\r\n'
        "\r\n"
        "clip1.mp4,it rolls,train\r\n"
        "C:\\videos\\clip2.AVI,éclair,val\r\n"
    )
    assert read_annotations([write(tmp_path / "own.csv", text)]) == EXPECTED_TABLE


def test_columns_may_stand_in_any_order_and_be_parted_by_tabs(tmp_path: Path) -> None:
    text = "Split\tid\tCaption\tVideo\ntrain\t1\tyes, it is\tx.mp4\n"
    assert read_annotations([write(tmp_path / "own.tsv", text)]) == [VideoRecord("x", "train", ["yes, it is"])]


def test_jsonl_with_single_captions_and_lists(tmp_path: Path) -> None:
    rows = [
        {"video": "clip1.mp4", "captions": ['a "red", round ball', "it rolls"]},
        {"video": "clip2", "caption": "éclair", "split": "val"},
    ]
    lines = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n\r\n"
    assert read_annotations([write(tmp_path / "own.jsonl", lines)]) == EXPECTED_TABLE
    # The content decides where the name does not.
    assert read_annotations([write(tmp_path / "own.json", lines)]) == EXPECTED_TABLE
    assert read_annotations([write(tmp_path / "list.json", rows)]) == EXPECTED_TABLE
    assert read_annotations([write(tmp_path / "one.json", rows[0])]) == EXPECTED_TABLE[:1]


def test_a_line_separator_inside_a_json_caption_does_not_end_the_line(tmp_path: Path) -> None:
    line = json.dumps({"video": "v", "caption": "one\u2028two"}, ensure_ascii=False)
    assert read_annotations([write(tmp_path / "own.jsonl", line)])[0].captions == ["one two"]


def test_only_video_endings_are_cut_from_ids() -> None:
    names = ["video12", "a/b/video12.mp4", "clip.01", "show.s01.mkv", ".mp4", "x.MP4"]
    assert [video_id_of(name) for name in names] == ["video12", "video12", "clip.01", "show.s01", ".mp4", "x"]


def test_ids_that_are_numbers(tmp_path: Path) -> None:
    text = '{"video": 7, "caption": "a dog"}\n{"video": "7", "caption": "the dog"}\n'
    (record,) = read_annotations([write(tmp_path / "own.jsonl", text)])
    assert (record.video_id, record.captions) == ("7", ["a dog", "the dog"])
    for wrong in ("true", "1.5", "null", "[7]"):
        with pytest.raises(ClipcapError, match="line 1 lacks the field video"):
            read_annotations([write(tmp_path / "own.jsonl", f'{{"video": {wrong}, "caption": "a dog"}}\n')])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])  # two without a byte order mark
@pytest.mark.parametrize("name", ["own.csv", "own.json"])
def test_text_in_utf_16(name: str, encoding: str, tmp_path: Path) -> None:
    text = "video,caption\nclip1,éclair\n" if name == "own.csv" else '[{"video": "clip1", "caption": "éclair"}]'
    (tmp_path / name).write_bytes(text.encode(encoding))
    (record,) = read_annotations([tmp_path / name])
    assert record.captions == ["éclair"]


def test_a_nul_is_no_part_of_a_caption(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=r"own.csv is not UTF-8 text \(byte 25\); save it as UTF-8"):
        read_annotations([write(tmp_path / "own.csv", "video,caption\nclip1,a dog\0runs\n")])
