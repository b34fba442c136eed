"""Annotations against features."""

from __future__ import annotations

from clipcap_video.datasets.matching import match_features
from clipcap_video.datasets.records import VideoRecord


def test_matching_counts_and_names_what_is_left_out() -> None:
    records = [VideoRecord(f"video{number}", "train", ["x"]) for number in (3, 1, 2, 5, 6, 7)]
    matched = match_features(records, ["video2", "video3", "video9"])
    assert [record.video_id for record in matched.records] == ["video3", "video2"]
    assert matched.without_features == ["video1", "video5", "video6", "video7"]
    assert matched.without_captions == ["video9"]
    assert matched.describe() == (
        "2 videos matched; left out: 4 annotated videos (video1, video5, video6, ...) without features; "
        "1 video (video9) with features but no annotations"
    )
    assert match_features(records[:1], ["video3"]).describe() == ""
