"""Shares of the videos, which runs have between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.runs.engine import EngineOptions, Shard


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "-1/4", "1/0", "1/4/2"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ClipcapError, match="no share of the videos"):
        Shard.from_text(text)


def test_shards_hold_each_video_once() -> None:
    videos = {str(number): Path(str(number)) for number in range(10)}
    parts = [Shard.from_text(f"{number}/4").of(videos) for number in (1, 2, 3, 4)]
    assert [list(part) for part in parts] == [["0", "4", "8"], ["1", "5", "9"], ["2", "6"], ["3", "7"]]


def test_names_of_parts_sort_with_their_whole_and_never_meet() -> None:
    names = {Shard(number, count).part_of("p.partial.jsonl") for count in (2, 11) for number in (1, 2)}
    assert names == {f"p.{part}.partial.jsonl" for part in ("1-of-2", "2-of-2", "1-of-11", "2-of-11")}


def test_a_share_is_read_before_any_work() -> None:
    assert EngineOptions(shard=" 3/16 ").share == Shard(3, 16)
    assert EngineOptions().share is None
    with pytest.raises(ClipcapError, match="NUMBER from 1 to COUNT"):
        EngineOptions(shard="3/2")
