"""VATEX in both of its languages."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from tests.datasets.published import VATEX, write


def test_vatex_in_english_else_in_chinese(tmp_path: Path) -> None:
    records = read_annotations([write(tmp_path / "vatex_validation_v1.0.json", VATEX)])
    assert records[0] == VideoRecord("Ptf_2VRj-V0_000122_000132", "validate", ["A man lifts weights."])
    chinese = [{"videoID": entry["videoID"], "chCap": entry["chCap"]} for entry in VATEX]
    records = read_annotations([write(tmp_path / "vatex_public_test_chinese.json", chinese)])
    assert (records[1].split, records[1].captions) == ("test", ["一只狗。"])
    blind = [{"videoID": entry["videoID"]} for entry in VATEX]
    path = write(tmp_path / "vatex_private_test_without_annotations.json", blind)
    assert [record.captions for record in read_annotations([path])] == [[], []]
