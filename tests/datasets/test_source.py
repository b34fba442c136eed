"""Annotation files before a reader knows what they are; pickles that would run code."""

from __future__ import annotations

import os
import pickle
from collections import defaultdict
from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.errors import ClipcapError
from tests.datasets.published import (
    ACTIVITYNET,
    CLIPS,
    EXPECTED_MSVD,
    LSMDC_CLIPS,
    assert_refused,
    didemo_entry,
    lsmdc_line,
    msvd_lists,
    msvd_pickle,
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    assert read_annotations([msvd_pickle(tmp_path, protocol), *msvd_lists(tmp_path)]) == EXPECTED_MSVD
    kept: defaultdict[str, list] = defaultdict(list, {CLIPS[0]: ["a dog"]})
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(kept, protocol=protocol))
    assert read_annotations([tmp_path / "raw-captions.pkl", *msvd_lists(tmp_path)])[0].captions == ["a dog"]


class Attack:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "raw-captions.pkl"
    file.write_bytes(pickle.dumps({CLIPS[0]: [Attack()]}, protocol=protocol))
    with pytest.raises(ClipcapError, match=r"it asks for posix\.mkdir"):
        read_annotations([file])
    assert not (tmp_path / "pwned").exists()
    file.write_bytes(pickle.dumps({CLIPS[0]: [["a", "dog"]]}, protocol=protocol)[:-4])
    with pytest.raises(ClipcapError, match="is not a whole pickle"):
        read_annotations([file])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.json", ACTIVITYNET, "the name of .*captions.json does not tell its split"),
        ("train_val_list.txt", "clip_1_2\n", "does not tell its split"),
        ("train.json", {"v_x": {"timestamps": [], "sentences": []}}, "'v_x' lacks the field 'duration'; expected"),
        ("train.json", {"v_x": {"duration": 1, "timestamps": [[0, 1]], "sentences": []}}, "'v_x' is malformed"),
        ("train.json", {"v_x": {"duration": 1, "timestamps": [[0]], "sentences": ["a"]}}, "'v_x' is malformed"),
        ("train.json", {"v_x": {"duration": 1, "timestamps": [["a", 1]], "sentences": ["a"]}}, "'v_x' is malformed"),
        ("train_data.json", [{"description": "x"}], "entry 0 lacks the field 'video'; expected"),
        ("train_data.json", [didemo_entry("v.avi", "x", [])], "entry 0 is malformed"),
        ("train_data.json", [didemo_entry("v.avi", "x", [[3]])], "entry 0 is malformed"),
        ("train_data.json", [didemo_entry("v.avi", "x", [[9, 2]])], "a part of a video cannot go from 45.0 to 15.0"),
        ("LSMDC16_annos_val.csv", lsmdc_line(LSMDC_CLIPS[0], "x") + "y\n", "the line 'y' is not a clip id, four times"),
        ("youtube_mapping.txt", "a_1_2 vid1\nb_1_2 vid1971\n", "'b_1_2 vid1971' is not a clip id and one of vid1 to"),
        ("AllVideoDescriptions.txt", "a_1_2 a dog\nb a cat\n", "'b a cat' is not a clip id"),
        ("video_corpus.csv", "VideoID,Start,End,Description\nx,,2,a dog\n", "line 2 lacks VideoID, Start or End"),
        (
            "MSRVTT_JSFUSION_test.csv",
            "key,vid_key,video_id,sentence\nret0,msr1,,x\n",
            "line 2 has no text in",
        ),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path: Path, name: str, content: object, message: str) -> None:
    assert_refused(tmp_path / name, content, message)
