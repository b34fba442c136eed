"""Which files count as videos, under which ids."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.video.files import SUFFIXES, find_all_videos, find_videos, search, shown
from clipcap_video.video.reader import SampledVideo, read_frames
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import numbered_frame, numbers_in, write_clip

DATA = Path(__file__).parents[1] / "data"


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


def test_every_ending_of_ffmpeg_is_a_video_a_picture_or_known_not_to_be() -> None:
    import av

    endings = set()
    for name in av.formats_available:
        for mode in ("r", "w"):
            with suppress(ValueError):
                endings |= av.ContainerFormat(name, mode).extensions
    lines = (DATA / "endings_of_no_video.txt").read_text().splitlines()
    others = {ending for line in lines if line[:1] != "#" for ending in line.split()}
    missing = {ending.strip().lower() for ending in endings if f".{ending.strip().lower()}" not in SUFFIXES} - others
    assert not missing


def test_pictures_are_videos_of_one_frame(tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    picture = numbered_frame(1234, 64, 48)
    for ending in ("jpg", "png", "webp", "bmp", "tiff"):
        path = tmp_path / f"{ending}.{ending}"
        Image.fromarray(picture).save(path)
        frames, times = read_frames(path, SamplingSpec())
        assert times.tolist() == [0]
        assert numbers_in(torch.from_numpy(frames).permute(0, 3, 1, 2)) == [1234]
        (chunk,) = list(SampledVideo(path, SamplingSpec("fps"), lambda images: images))
        assert len(chunk.images) == 1
    assert list(find_videos(tmp_path)) == ["bmp", "jpg", "png", "tiff", "webp"]
    for orientation in range(1, 9):
        image = Image.fromarray(picture)
        turned = image.getexif()
        turned[0x0112] = orientation
        image.save(tmp_path / "phone.jpg", exif=turned)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "phone.jpg")), dtype=int)
        frames, _ = read_frames(tmp_path / "phone.jpg", SamplingSpec())
        assert frames.shape[1:] == upright.shape
        assert np.abs(frames[0] - upright).mean() < 3
    (tmp_path / "phone.jpg").unlink()
    (tmp_path / "png.png").rename(tmp_path / "film.mp4")
    with pytest.raises(VideoError, match=r"film\.mp4 is a picture \(PNG\), not a video"):
        read_frames(tmp_path / "film.mp4", SamplingSpec())


def test_a_video_is_known_by_its_content(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    for name in ("clip.jpg", "clip", "clip.dat"):
        path = tmp_path / name
        path.write_bytes(clip.read_bytes())
        assert len(read_frames(path, SamplingSpec())[0]) == 5


@pytest.mark.skipif(os.name == "nt", reason="such files are of Unix")
def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 3)
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "module.ts").write_text("export const x = 1;")
    listing = search(tmp_path)
    assert [path.name for path in listing.paths] == ["clip.mp4"]
    assert [path.name for path in listing.skipped] == ["device.mp4", "module.ts", "notes.txt", "pipe.mp4"]
    told: list[str] = []
    assert list(find_all_videos([tmp_path], told.append)) == ["clip"]
    assert told == ["4 files skipped, by the ending no video: device.mp4, module.ts, notes.txt, pipe.mp4"]
    for name in ("pipe.mp4", "device.mp4"):
        with pytest.raises(VideoError, match="is no file"):
            read_frames(tmp_path / name, SamplingSpec())


@pytest.mark.skipif(sys.platform != "linux", reason="such files are of Linux")
def test_a_search_ends(tmp_path: Path) -> None:
    """Also where links lead in circles or above, and where the system makes up files, some of which never end."""
    write_clip(tmp_path / "above.mp4", 3)
    (folder := tmp_path / "folder").mkdir()
    write_clip(folder / "clip.mp4", 3)
    for name, target in {"self": ".", "up": "..", "root": "/", "proc": "/proc", "loop.mp4": "loop.mp4"}.items():
        (folder / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket.mp4"))
    found = search(folder)
    assert [path.name for path in found.paths] == ["clip.mp4", "loop.mp4"]
    assert [path.name for path in found.skipped] == ["socket.mp4"]
    with pytest.raises(ClipcapError, match="no video in folder /proc"):
        search(Path("/proc"))
    with pytest.raises(ClipcapError, match="lists no video"):
        search(Path("/proc/kmsg"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_of_any_bytes(tmp_path: Path) -> None:
    content = write_clip(tmp_path / "clip.mp4", 5).read_bytes()
    names = [b"caf\xe9.mp4", b"-dash.mp4", b"new\nline.mp4", b"x" * 251 + b".mp4", b"clip%03d.mp4", b"http:a.mp4"]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(content)
    found = find_videos(tmp_path)
    assert len(found) == 7
    assert r"caf\xe9" in found
    for path in found.values():
        assert len(read_frames(path, SamplingSpec())[0]) == 5
        assert shown(path).isprintable()
        shown(path).encode("utf-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])  # PowerShell's, and two without a mark
def test_a_list_in_utf_16(encoding: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "list.txt").write_bytes("a.mp4\r\n".encode(encoding))
    assert find_videos(tmp_path / "list.txt") == {"a": tmp_path / "a.mp4"}


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
