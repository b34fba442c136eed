"""Records, and choosing a split."""

from __future__ import annotations

import pytest

from clipcap_video.datasets.records import VideoRecord, select, splits
from clipcap_video.errors import ClipcapError


def test_select_lists_the_splits_there_are() -> None:
    records = [VideoRecord("a", "train"), VideoRecord("b", "train"), VideoRecord("c", "test")]
    assert splits(records) == {"train": 2, "test": 1}
    assert [record.video_id for record in select(records, "train")] == ["a", "b"]
    with pytest.raises(ClipcapError, match=r"no split 'val'.*there is train \(2\), test \(1\)"):
        select(records, "val")
