"""MSVD in each of its published forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import match_features, match_videos
from clipcap_video.datasets.records import splits
from clipcap_video.errors import ClipcapError
from tests.datasets.published import EXPECTED_MSVD, MSVD, msvd_lists, msvd_pickle, write


def msvd_corpus(folder: Path) -> Path:
    """Captions of all languages, quoted where they hold commas; some English lines are empty."""
    rows = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    for clip, captions in MSVD.items():
        video, start, end = clip.rsplit("_", 2)
        rows.append(f"{video},{start},{end},588702,clean,55,Slovene,Veverica je oreh.")
        rows += [f'{video},{start},{end},703110,unverified,12,English,"{caption}"' for caption in captions]
        rows.append(f"{video},{start},{end},703110,unverified,12,English,")
    return write(folder / "MSR Video Description Corpus.csv", "\r\n".join(rows) + "\r\n")


def msvd_descriptions(folder: Path) -> Path:
    lines = ["# Sentences of the Microsoft Research Video Description Corpus", ""]
    lines += [f"{clip} {caption}" for clip, captions in MSVD.items() for caption in captions]
    return write(folder / "AllVideoDescriptions.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize("captions", [msvd_corpus, msvd_descriptions, msvd_pickle])
def test_msvd_captions_in_each_form_with_the_split_lists(tmp_path: Path, captions) -> None:  # type: ignore[no-untyped-def]
    assert read_annotations([captions(tmp_path), *msvd_lists(tmp_path)]) == EXPECTED_MSVD


def test_msvd_split_by_the_mapping(tmp_path: Path) -> None:
    numbers = [1, 1200, 1201, 1300, 1301, 1970]
    clips = [f"clip{number}_1_2" for number in numbers]
    text = "".join(f"{clip} vid{number}\r\n" for clip, number in zip(clips, numbers, strict=True))
    mapping = write(tmp_path / "youtube_mapping.txt", text)
    captions = write(tmp_path / "AllVideoDescriptions.txt", "".join(f"{clip} a dog runs\n" for clip in clips))
    records = read_annotations([captions, mapping])
    assert splits(records) == {"train": 2, "validate": 2, "test": 2}
    assert all(record.captions == ["a dog runs"] for record in records)
    # Features, video files and captions of others may go by the mapping's names.
    matched = match_features(records, ["vid1200", "clip1970_1_2"])
    assert [(record.video_id, record.split) for record in matched.records] == [
        ("vid1200", "train"),
        ("clip1970_1_2", "test"),
    ]
    assert match_videos(records, {"vid1": Path("vid1.avi")}).videos == {"vid1": Path("vid1.avi")}
    renamed = write(tmp_path / "own.csv", "video,caption\nvid1.avi,a cat sleeps\n")
    assert read_annotations([renamed, mapping])[0].captions == ["a cat sleeps"]


def test_msvd_captions_without_a_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=r"AllVideoDescriptions\.txt does not say which split .*train_list\.txt"):
        read_annotations([msvd_descriptions(tmp_path)])
    # Which split a video is in does not matter to who extracts its features.
    assert len(read_annotations([msvd_descriptions(tmp_path)], need_splits=False)) == 3
