"""An open media file: its container, which stream of it is the video, and all packets of that."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from clipcap_video.errors import VideoError
from clipcap_video.video.damage import begins_as_video, bytes_missing
from clipcap_video.video.files import PICTURE_SUFFIXES, shown
from clipcap_video.video.packets import INDEXED, MATROSKA, PacketTable, TableBuilder

DEFAULT_RATE = 25.0
# Packets of a file of so many bytes at most are kept in memory rather than read twice.
SMALL = 2**24
# Streams that are no video of their own: covers, thumbnails, layers of another stream.
SIDE_PICTURES = ("attached_pic", "timed_thumbnails", "dependent")
CLOCK_RESTARTS = ("mpegts", "mpeg", "vob")


class Source:
    """An open file with a video in it. Raises VideoError, in a sentence, where there is none.

    threads: of the codec; 0 leaves it to the codec.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        check_file(path)
        self.path = path
        self.threads = threads
        self._container = open_container(path)
        try:
            self.format = self._container.format.name
            self.is_picture = self.format.endswith("_pipe") or self.format in ("image2", "ico")
            self._check_kind()
            self.table, self._stream_index = self._survey()
            self._prepare()
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        self._container.close()

    def _check_kind(self) -> None:
        if self.is_picture and self.path.suffix.lower() not in PICTURE_SUFFIXES:
            kind = self.format.removesuffix("_pipe").upper()
            raise VideoError(
                f"{shown(self.path)} is a picture ({kind}), not a video; name it so (.{kind.lower()}) to have it read "
                "as a video of one frame",
                "not_video",
            )

    def _survey(self) -> tuple[PacketTable, int]:
        """Reads all packets: those of the stream that is the video, and which it is."""
        streams = [one for one in self._container.streams.video if not _is_side_picture(one)]
        if not streams:
            raise VideoError(f"{shown(self.path)} holds no video, only {self._other_streams()}; remove it", "no_video")
        builder = TableBuilder(keep=self.path.stat().st_size <= SMALL)
        wanted = {one.index for one in streams}
        is_matroska = self.format == MATROSKA
        try:
            for packet in self._container.demux(*([] if is_matroska else streams)):
                builder.add(packet, packet.stream_index in wanted, is_matroska)
        except (av.FFmpegError, OSError, ValueError):
            pass  # what comes behind is missing, as the counts will say

        def rank(one: Any) -> tuple[bool, bool, int, int]:
            area = (one.width or 0) * (one.height or 0) if one.codec_context is not None else 0
            return builder.count(one.index) > 1, bool(one.disposition.value & 1), area, -one.index

        best = max(streams, key=rank)
        return builder.table(best.index), best.index

    def _other_streams(self) -> str:
        kinds = {one.type for one in self._container.streams if one.type != "video"}
        kinds |= {"a cover"} if self._container.streams.video else set()
        return " and ".join(sorted({"audio": "sound"}.get(kind, kind) for kind in kinds)) or "nothing else"

    def _prepare(self) -> None:
        """Makes the stream's decoder ready."""
        self.stream = self._container.streams[self._stream_index]
        self.context = self.stream.codec_context
        if self.context is None or self.context.codec is None:
            raise VideoError(
                f"{shown(self.path)} is coded in a way that FFmpeg has no decoder for here; it is not damaged, so "
                "convert it to H.264 with a program that can read it",
                "no_decoder",
            )
        self.context.thread_type = "AUTO"
        self.context.thread_count = self.threads
        self.unit = float(self.stream.time_base or 0) or 1 / 90000
        self.rate = stream_rate(self.stream)

    def again(self) -> None:
        """Goes back to the beginning, with a fresh decoder."""
        self._container.close()
        self._container = open_container(self.path)
        self._prepare()

    @property
    def codec(self) -> str:
        return str(self.context.name)

    @property
    def aspect(self) -> Fraction:
        """Width of a pixel over its height."""
        return self.stream.sample_aspect_ratio or Fraction(1)

    @property
    def promised(self) -> int:
        """The number of frames in the header, 0 where it has none."""
        return int(self.stream.frames or 0)

    @property
    def duration(self) -> float:
        """Seconds according to the header, or to the frames' number where it does not say; 0 where neither does."""
        if self.restarts:  # what such a container says of its length cannot be relied on
            return len(self.table.stamps) / self.rate
        if self.stream.duration is not None:
            return max(0.0, float(self.stream.duration * self.stream.time_base))
        if self._container.duration is not None and self._container.duration > 0:
            return float(self._container.duration) / av.time_base
        return len(self.table.stamps) / self.rate

    @property
    def restarts(self) -> bool:
        """Whether the container's clock may restart in the middle."""
        return self.format in CLOCK_RESTARTS

    @property
    def is_first(self) -> bool:
        """Whether the video is the first stream of its kind in the file."""
        return bool(self._container.streams.video[0].index == self._stream_index)

    @property
    def is_indexed(self) -> bool:
        return self.format in INDEXED

    def packets(self, stamp: int | None = None) -> Iterator[Any]:
        """The stream's packets from the beginning (of a file that was just opened), or from the key frame `stamp`."""
        if self.table.packets is not None:
            stamps = self.table.stamps.tolist()
            first = 0 if stamp is None else stamps.index(stamp)
            yield from self.table.packets[first:]
            return
        if stamp is not None:
            self._container.seek(stamp, stream=self.stream)
        try:
            for packet in self._container.demux(self.stream):
                if packet.size:
                    yield packet
        except (av.FFmpegError, OSError):
            return  # as in the survey


def check_file(path: Path) -> None:
    """Raises VideoError unless there is a file with something in it that may be read. Opens nothing but files."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(f"{shown(path)} is no file; give a video file")
        if status.st_size == 0:
            raise VideoError(f"{shown(path)} is empty (0 bytes); fetch it again or remove it", "empty")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise VideoError(f"no video file at {shown(path)}; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{shown(path)} cannot be read ({reason}); check its name and permissions") from None


def open_container(path: Path) -> Any:
    """The container of a file. Raises VideoError where FFmpeg finds none.

    The file is handed over open, by its descriptor: its name may be anything, is no URL or pattern of names, and says
    nothing about its kind; and nothing that its content names is opened.
    """
    # Damaged videos become a VideoError or a count of ours; what FFmpeg would print says no more and names no file.
    # Said each time, for torchvision 0.21 turns it on: then a decoder that ends waits for its threads, and they wait
    # for Python to print what they say.
    av.logging.set_level(None)
    try:
        container = _opened(path)
        if container.streams:
            return container
        container.close()
        reason = "no streams in it"
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if missing := bytes_missing(path):
        raise VideoError(
            f"{shown(path)} is truncated ({missing:,} bytes are missing) and cannot be opened; fetch it again",
            "truncated",
        )
    raise VideoError(
        f"{shown(path)} is not a video, or is damaged beyond reading ({reason}); fetch it again or remove it",
        "corrupt" if begins_as_video(path) else "not_video",
    )


def _opened(path: Path, options: dict[str, str] | None = None) -> Any:
    if os.name == "nt":
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file", **(options or {})})
    else:
        with path.open("rb") as stream:
            place = {"fd": str(stream.fileno()), "protocol_whitelist": "fd"}
            container = av.open("fd:", options={**place, **(options or {})})
    if options is None and container.format.name.endswith("_pipe"):
        # Pictures of kinds that say nothing of their length are cut into blocks unless that is given.
        container.close()
        return _opened(path, {"frame_size": str(path.stat().st_size)})
    return container


def _is_side_picture(stream: Any) -> bool:
    value = stream.disposition.value
    return any(value & getattr(av.stream.Disposition, name).value for name in SIDE_PICTURES)


def stream_rate(stream: Any) -> float:
    for rate in (stream.guessed_rate, stream.average_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return float(rate)
    return DEFAULT_RATE
