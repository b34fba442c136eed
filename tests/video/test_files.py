"""Which files count as videos, under which ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.video.files import find_videos


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0")
    return path


def test_a_folder_is_searched_with_its_subfolders_and_sorted_by_number(tmp_path: Path) -> None:
    for name in ("video10.mp4", "video2.AVI", "deep/er/video1.webm", "a.b.mkv", "notes.txt", "._video2.mp4"):
        touch(tmp_path / name)
    touch(tmp_path / ".trash/video3.mp4")
    found = find_videos(tmp_path)
    assert list(found) == ["a.b", "video1", "video2", "video10"]
    assert found["video1"] == tmp_path / "deep/er/video1.webm"


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm", "mov", "gif", "m4v", "mpg", "MPEG"])
def test_every_listed_kind_is_found(tmp_path: Path, suffix: str) -> None:
    assert find_videos(touch(tmp_path / f"clip.{suffix}").parent) == {"clip": tmp_path / f"clip.{suffix}"}


def test_one_file_is_a_video_by_its_name_or_because_it_is_no_text(tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.ts"):
        assert find_videos(touch(tmp_path / name)) == {"clip": tmp_path / name}


def test_a_text_file_lists_paths_relative_to_itself(tmp_path: Path) -> None:
    touch(tmp_path / "videos/b.mp4")
    elsewhere = touch(tmp_path / "elsewhere/a.ts")
    listing = tmp_path / "list.txt"
    listing.write_text(f"# test split\n\nvideos/b.mp4\n  {elsewhere}  \nvideos/b.mp4\n")
    assert find_videos(listing) == {"a": elsewhere, "b": tmp_path / "videos/b.mp4"}
    listing.write_text("# first\nvideos/b.mp4\nvideos/c.mp4\n")
    with pytest.raises(ClipcapError, match=r"line 3.*c\.mp4"):
        find_videos(listing)
    listing.write_text("# nothing\n")
    with pytest.raises(ClipcapError, match="lists no video"):
        find_videos(listing)


def test_nothing_to_find_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=r"nothing at .*absent"):
        find_videos(tmp_path / "absent")
    with pytest.raises(ClipcapError, match="no video in folder"):
        find_videos(tmp_path)


def test_two_files_of_one_stem_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "a/clip.mp4")
    touch(tmp_path / "b/clip.avi")
    with pytest.raises(ClipcapError, match=r"clip\.mp4.*clip\.avi"):
        find_videos(tmp_path)
