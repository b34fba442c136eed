"""LSMDC's files."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from tests.datasets.published import LSMDC_CLIPS, lsmdc_line, write


def test_lsmdc_clips_may_have_several_sentences(tmp_path: Path) -> None:
    train = lsmdc_line(LSMDC_CLIPS[0], 'He says "go, now".') + lsmdc_line(LSMDC_CLIPS[0], "SOMEONE runs.")
    files = [
        write(tmp_path / "LSMDC16_annos_training.csv", train),
        write(tmp_path / "LSMDC16_annos_val.csv", lsmdc_line(LSMDC_CLIPS[1], "SOMEONE sleeps.")),
        write(tmp_path / "LSMDC16_challenge_1000_publictect.csv", lsmdc_line(LSMDC_CLIPS[2], "SOMEONE eats.")),
    ]
    assert read_annotations(files) == [
        VideoRecord(LSMDC_CLIPS[0], "train", ['He says "go, now".', "SOMEONE runs."]),
        VideoRecord(LSMDC_CLIPS[1], "validate", ["SOMEONE sleeps."], origin=1),
        VideoRecord(LSMDC_CLIPS[2], "test", ["SOMEONE eats."], origin=2),
    ]


def test_lsmdc_blind_test_has_no_sentences(tmp_path: Path) -> None:
    file = write(tmp_path / "LSMDC16_annos_blindtest.csv", lsmdc_line(LSMDC_CLIPS[0]) + lsmdc_line(LSMDC_CLIPS[1], ""))
    assert read_annotations([file]) == [VideoRecord(clip, "test", []) for clip in LSMDC_CLIPS[:2]]
