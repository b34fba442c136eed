"""Finding the videos that a user points at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.files import sorted_ids

VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif", ".m4v", ".mpg", ".mpeg",
    ".3gp", ".flv", ".m2ts", ".mts", ".ogv", ".wmv",
)  # fmt: skip


def find_all_videos(sources: Iterable[Path]) -> dict[str, Path]:
    """Videos at several sources together, as `find_videos` finds them; a stem may stand for one file only."""
    return _by_stem(path for source in sources for path in find_videos(source).values())


def find_videos(source: Path) -> dict[str, Path]:
    """Videos at `source`: id (the file's stem) -> path, numbers in ids sorted by value.

    source: a folder (searched with its subfolders; hidden files and folders are left out), one video file, or
        a text file of paths, one a line, relative to the text file; blank lines and # comments are skipped.

    Raises ClipcapError when there is nothing, a listed path does not exist or two files share a stem.
    """
    return _by_stem(list_videos(source))


def list_videos(source: Path) -> list[Path]:
    """The files that `find_videos` finds, stems that stand for several files included."""
    source = Path(source)
    if source.is_dir():
        videos = list(_walk(source))
        if not videos:
            kinds = " ".join(suffix[1:] for suffix in VIDEO_SUFFIXES)
            raise ClipcapError(f"no video in folder {source}; it needs files of the kinds {kinds}")
        return videos
    if not source.is_file():
        raise ClipcapError(f"nothing at {source}; give a folder of videos, one video or a text file of paths")
    text = None if source.suffix.lower() in VIDEO_SUFFIXES else _read_text(source)
    if text is None:
        return [source]
    videos = list(_listed(source, text))
    if not videos:
        raise ClipcapError(f"{source} lists no video; write one path a line")
    return videos


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()  # links may lead in circles
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            # macOS leaves a hidden "._clip.mp4", which is no video, beside each clip.mp4 on foreign disks.
            if not name.startswith(".") and name.lower().endswith(VIDEO_SUFFIXES):
                yield Path(parent, name)


def _read_text(file: Path) -> str | None:
    """The text of a file, or None where it is not text: then it is taken for a video of an unlisted kind."""
    with file.open("rb") as stream:
        if b"\0" in stream.read(4096):
            return None
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None


def _listed(source: Path, text: str) -> Iterator[Path]:
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        path = source.parent / name
        try:
            found = path.is_file()
        except OSError:  # too long for a name, as a line of something else is
            found = False
        if not found:
            shown = name if len(name) < 200 else f"{name[:80]}..."
            raise ClipcapError(f"{source} line {number}: no file at {shown}; mend or remove the line")
        yield path


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    videos: dict[str, Path] = {}
    for path in paths:
        other = videos.setdefault(path.stem, path)
        if other != path and not other.samefile(path):
            raise ClipcapError(f"{other} and {path} have the same id {path.stem!r}; rename one of them")
    return {video_id: videos[video_id] for video_id in sorted_ids(videos)}
