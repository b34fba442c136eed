"""Finding the videos that a user points at."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.files import LARGEST_TEXT, decode_text, encoding_of, files_below, sorted_ids, spelled, url_of
from clipcap_video.video.places import expand, is_container, names_in, opened, size_of, videos_in

# Endings of FFmpeg's containers that may hold moving pictures. What a file is, its content says when it is read.
VIDEO_SUFFIXES = (
    ".264", ".265", ".266", ".3g2", ".3gp", ".3gp2", ".3gpp", ".amv", ".apng", ".apv", ".asf", ".avc", ".avi", ".avs",
    ".avs2", ".avs3", ".bmv", ".cdxl", ".cgi", ".cpk", ".dat", ".dav", ".dif", ".divx", ".dnxhd", ".dnxhr", ".drc",
    ".dv", ".dvd", ".dvr-ms", ".evc", ".evo", ".f4v", ".fli", ".flc", ".flm", ".flv", ".gif", ".gxf", ".h261",
    ".h263", ".h264", ".h265", ".h266", ".h26l", ".hevc", ".hxvs", ".imx", ".ifv", ".ipu", ".ism", ".ismv", ".ivf",
    ".ivr", ".k3g", ".kux", ".lvf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg",
    ".mk3d", ".mkv", ".mod", ".mods", ".moflex", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpg2", ".mpo", ".mpv",
    ".mqv", ".mts", ".mvi", ".mxf", ".mxg", ".nsv", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".ogx", ".pva", ".qt",
    ".rcv", ".rec", ".rm", ".rmvb", ".roq", ".rpl", ".ser", ".sga", ".smk", ".swf", ".thp", ".tod", ".tp", ".trp",
    ".ts", ".ty", ".ty+", ".usm", ".v", ".v210", ".vb", ".vc1", ".viv", ".vob", ".vro", ".vvc", ".webm", ".wm",
    ".wmv", ".wtv", ".xesc", ".xl", ".xmd", ".xmv", ".y4m", ".yop", ".yuv10",
)  # fmt: skip
# Of these, the ones that other programs give to text: a file that is text is no video.
AMBIGUOUS = (".cgi", ".dat", ".mod", ".rec", ".ts", ".v", ".vb", ".xl")
# Pictures: videos of one frame.
PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic", ".heif",
    ".jp2", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi",
)  # fmt: skip
SUFFIXES = VIDEO_SUFFIXES + PICTURE_SUFFIXES
MOST_NAMED = 5


@dataclass
class Listing:
    """Files found at a place. skipped: files of a searched folder that are taken for no videos. names: the ids of those
    that are not called after their file."""

    paths: list[Path]
    skipped: list[Path] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)


def shown(path: object) -> str:
    """A path in a message of one line, whatever bytes its name has."""
    text = spelled(os.fspath(path)) if isinstance(path, os.PathLike) else str(path)
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in clean)


def id_of(path: Path) -> str:
    """The id of a video: its file's name without the ending; bytes that are not UTF-8 as \\xNN."""
    return path.stem.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_all_videos(sources: Iterable[Path], tell: Callable[[str], None] = lambda line: None) -> dict[str, Path]:
    """Videos at several sources together, as `find_videos` finds them; a stem may stand for one file only.

    tell: is given a sentence about files that were skipped.
    """
    listings = [search(path) for source in sources for path in expand(source)]
    if skipped := [path for listing in listings for path in listing.skipped]:
        tell(skipped_note(skipped))
    names = {path: name for listing in listings for path, name in listing.names.items()}
    return _by_stem((path for listing in listings for path in listing.paths), names)


def find_videos(source: Path) -> dict[str, Path]:
    """Videos at `source`: id (the file's stem) -> path, numbers in ids sorted by value.

    source: a folder (searched with its subfolders; hidden files and folders are left out), one video file or picture,
        or a text file of paths, one a line, relative to the text file; blank lines and # comments are skipped. A URL
        of any of these, a tar or a table: see `places.py`.

    Raises ClipcapError when there is nothing, a listed path does not exist or two files share a stem.
    """
    return find_all_videos([source])


def search(source: Path) -> Listing:
    """The files that `find_videos` finds, stems that stand for several files included, and what it skips."""
    source = Path(source)
    if is_container(source) and not source.is_dir():
        return Listing(*_contained(source))
    if (url := url_of(source)) is not None:
        return _search_url(source, url)
    if source.is_dir():
        listing = Listing([])
        _walk(source, listing)
        if not listing.paths:
            seen = f"; {skipped_note(listing.skipped)}" if listing.skipped else ""
            raise ClipcapError(f"no video in folder {shown(source)}{seen}")
        return listing
    if not source.exists():
        raise ClipcapError(f"nothing at {shown(source)}; give a folder of videos, one video or a text file of paths")
    if not source.is_file():
        raise ClipcapError(f"{shown(source)} is neither file nor folder; give a folder of videos or a video")
    text = None if source.suffix.lower() in SUFFIXES else _read_text(source)
    if text is None:
        return Listing([source])
    videos = list(_listed(source, text))
    if not videos:
        raise ClipcapError(f"{shown(source)} lists no video; write one path a line")
    return Listing(videos)


def _contained(source: Path) -> tuple[list[Path], list[Path], dict[Path, str]]:
    paths, names = videos_in(source, SUFFIXES)
    return paths, [], names


def _search_url(source: Path, url: str) -> Listing:
    paths = [path for path in names_in(url) if not path.name.startswith(".")]
    if paths == [source] and source.suffix.lower() not in SUFFIXES:  # a list
        if not 0 < size_of(url) <= LARGEST_TEXT:
            raise ClipcapError(f"{url} is no list of paths, by its size; give a folder, a video, a tar or a table")
        with opened(source) as stream:
            data = stream.read()
        try:
            text = decode_text(data)
        except UnicodeError:
            raise ClipcapError(
                f"{url} is no video by its ending, and no list of paths; give a folder or a video"
            ) from None
        return Listing([Path(line.strip()) if url_of(line.strip()) else source.parent / line.strip()
                        for line in text.splitlines() if line.strip() and not line.startswith("#")])  # fmt: skip
    listing = Listing([path for path in paths if path.suffix.lower() in SUFFIXES])
    listing.skipped = [path for path in paths if path.suffix.lower() not in SUFFIXES]
    if not listing.paths:
        raise ClipcapError(f"no video in {url}; {skipped_note(listing.skipped)}")
    return listing


def skipped_note(skipped: Sequence[Path]) -> str:
    """One sentence that counts and names files that were skipped."""
    names = ", ".join(shown(path.name) for path in skipped[:MOST_NAMED])
    more = f" and {len(skipped) - MOST_NAMED:,} more" if len(skipped) > MOST_NAMED else ""
    return f"{len(skipped):,} file{'' if len(skipped) == 1 else 's'} skipped, by the ending no video: {names}{more}"


def _walk(folder: Path, listing: Listing) -> None:
    # macOS leaves a hidden "._clip.mp4", which is no video, beside each clip.mp4 on foreign disks.
    for path in files_below(folder, hidden=False):
        (listing.paths if _is_named_video(path) else listing.skipped).append(path)


def _is_named_video(path: Path) -> bool:
    """Whether a file is to be tried as a video, by its name. FIFOs, devices and sockets are left alone."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return False
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return False
        return suffix not in AMBIGUOUS or status.st_size == 0 or _read_text(path) is None
    except OSError:
        return True  # a link to nowhere, or unreadable, which is said when it is read


def _read_text(file: Path) -> str | None:
    """The text of a file, or None where it is not text: then it is taken for a video of an unlisted kind."""
    size = file.stat().st_size
    if size == 0:  # a file of /proc need not end
        return ""
    with file.open("rb") as stream:
        head = stream.read(4096)
        if size > LARGEST_TEXT or (b"\0" in head and not encoding_of(head).startswith("utf-16")):
            return None
        try:
            return decode_text(head + stream.read())
        except UnicodeError:
            return None


def _listed(source: Path, text: str) -> Iterator[Path]:
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if url_of(name) is not None:
            yield Path(name)
            continue
        path = source.parent / name
        try:
            is_file = path.is_file()
        except (OSError, ValueError):  # too long for a name, as a line of something else is
            is_file = False
        if not is_file:
            short = shown(name) if len(name) < 200 else f"{shown(name[:80])}..."
            raise ClipcapError(f"{shown(source)} line {number}: no file at {short}; fix or remove the line")
        yield path


def _by_stem(paths: Iterable[Path], names: Mapping[Path, str]) -> dict[str, Path]:
    videos: dict[str, Path] = {}
    for path in paths:
        name = names.get(path) or id_of(path)
        other = videos.setdefault(name, path)
        if other != path and not (other.exists() and path.exists() and other.samefile(path)):
            raise ClipcapError(f"{shown(other)} and {shown(path)} have the same id {name!r}; rename one of them")
    return {name: videos[name] for name in sorted_ids(videos)}
