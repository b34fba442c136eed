"""ActivityNet Captions' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import match_features, match_videos
from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import Span
from tests.datasets.published import ACTIVITYNET, write


def activitynet(folder: Path, name: str = "train.json", content: object = ACTIVITYNET) -> Path:
    return write(folder / name, content)


def test_activitynet_one_segment_one_sample(tmp_path: Path) -> None:
    records = read_annotations([activitynet(tmp_path)])
    assert [(record.video_id, record.span) for record in records] == [
        ("v_QOlSCBRmfWY@0.83-19.86", Span(0.83, 19.86)),
        ("v_QOlSCBRmfWY@17.37-60.81", Span(17.37, 60.81)),
        ("v_QOlSCBRmfWY@56.26-79.42", Span(56.26, 79.42)),
        ("v_ehGHCYKzyZ8@10.00-30.50", Span(10, 30.5)),
        ("v_ehGHCYKzyZ8@40.00-61.72", Span(40, 61.72)),
    ]
    assert records[1].captions == ["She dances around."]
    assert {record.split for record in records} == {"train"}


def test_activitynet_paragraphs_of_two_annotators(tmp_path: Path) -> None:
    other = {"v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0, 50], [50, 82]], "sentences": ["One.", "Two."]}}
    files = [activitynet(tmp_path, "val_1.json"), activitynet(tmp_path, "val_2.json", other)]
    records = read_annotations(files, paragraphs=True)
    assert [(record.video_id, record.split) for record in records] == [
        ("v_QOlSCBRmfWY", "validate"),
        ("v_ehGHCYKzyZ8", "validate"),
    ]
    assert records[0].captions == [
        "A woman is seen standing in a room. She dances around. She ends by bowing.",
        "One. Two.",
    ]
    assert len(read_annotations(files)) == 7
    listed = write(tmp_path / "val_ids.json", ["v_ehGHCYKzyZ8"])
    assert [record.source for record in read_annotations([*files, listed])] == ["v_ehGHCYKzyZ8"] * 2
    assert len(read_annotations([*files, listed], paragraphs=True)) == 1
    bare = write(tmp_path / "val_list.txt", "ehGHCYKzyZ8\n")
    assert [record.source for record in read_annotations([*files, bare])] == ["v_ehGHCYKzyZ8"] * 2


def test_activitynet_videos_and_features_may_lack_the_first_letters(tmp_path: Path) -> None:
    path = activitynet(tmp_path)
    found = match_videos(read_annotations([path]), {"QOlSCBRmfWY": Path("QOlSCBRmfWY.mp4")})
    assert found.videos == dict.fromkeys(found.spans, Path("QOlSCBRmfWY.mp4"))
    assert list(found.spans) == [
        "v_QOlSCBRmfWY@0.83-19.86",
        "v_QOlSCBRmfWY@17.37-60.81",
        "v_QOlSCBRmfWY@56.26-79.42",
    ]
    assert found.missing == ["v_ehGHCYKzyZ8"]
    matched = match_features(read_annotations([path], paragraphs=True), ["QOlSCBRmfWY"])
    assert [record.video_id for record in matched.records] == ["QOlSCBRmfWY"]
    with pytest.raises(ClipcapError, match=r"annotations are of segments, such as v_QO.*--paragraphs"):
        match_features(read_annotations([path]), ["QOlSCBRmfWY"])
    with pytest.raises(ClipcapError, match="none of the 1 videos is in the annotations"):
        match_videos(read_annotations([path]), {"clip": Path("clip.mp4")})
