"""From decoded frames to the pictures that a player shows: one filter graph of FFmpeg's, set up as ffmpeg does it.

Fields are woven into whole pictures (bwdif), the display matrix turns and mirrors, pixels become square, and colours
follow the frame's matrix and range to RGB; high dynamic range is brought down to the standard one.
"""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

# What a shape of pixels beyond this says is a broken header.
MOST_STRETCH = 16
# Pixels that are so nearly square are left as they are: headers round, and scaling by one column blurs.
NEARLY_SQUARE = Fraction(1, 200)
# Pictures with more pixels are scaled down to so many.
MOST_PIXELS = 2**25
HIGH_RANGE = (16, 18)  # transfer of PQ and of HLG (ITU-T H.273)
Filters = list[tuple[str, str]]
# Display matrices of the orientations of EXIF that mirror.
MIRRORED = {
    2: (-1, 0, 0, 0, 1, 0, 0, 0, 1), 4: (1, 0, 0, 0, -1, 0, 0, 0, 1), 5: (0, 1, 0, 1, 0, 0, 0, 0, 1),
    7: (0, -1, 0, -1, 0, 0, 0, 0, 1),
}  # fmt: skip


def mirror_of(picture: Path) -> tuple[int, ...] | None:
    """The display matrix of a picture whose EXIF mirrors it."""
    from PIL import Image

    with suppress(Exception), Image.open(picture) as image:  # which is read by FFmpeg all the same
        return MIRRORED.get(image.getexif().get(0x0112, 1))
    return None


def turns(matrix: tuple[int, ...] | None, plain: bool = False) -> Filters:
    """The filters that show a frame as its display matrix says: those of ffmpeg's own autorotation.

    plain: by its angle alone, to quarters, as OpenCV does.
    """
    if matrix is None:
        return []
    across, down = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if across == 0 or down == 0:
        return []
    angle = math.degrees(math.atan2(matrix[1] / down, matrix[0] / across))
    theta = round(angle)
    theta -= 360 * math.floor(theta / 360 + 0.9 / 360)
    if plain:
        quarters = {90: [("transpose", "clock")], 180: [("hflip", ""), ("vflip", "")], 270: [("transpose", "cclock")]}
        return quarters.get(round(theta / 90) * 90 % 360, [])
    if abs(theta - 90) < 1:
        return [("transpose", "cclock_flip" if matrix[3] > 0 else "clock")]
    if abs(theta - 180) < 1:
        return [("hflip", "")] * (matrix[0] < 0) + [("vflip", "")] * (matrix[4] < 0)
    if abs(theta - 270) < 1:
        return [("transpose", "clock_flip" if matrix[3] < 0 else "cclock")]
    if abs(theta) > 1:
        return [("rotate", f"{theta}*PI/180")]
    return [("vflip", "")] if matrix[4] < 0 else []


def shown_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height in square pixels, MOST_PIXELS at most, of a frame whose pixels are `aspect` times as wide as
    high."""
    if not Fraction(1, MOST_STRETCH) <= aspect <= MOST_STRETCH or abs(aspect - 1) < NEARLY_SQUARE:
        aspect = Fraction(1)
    wide = max(1, round(width * aspect))
    scale = min(1.0, math.sqrt(MOST_PIXELS / (wide * height)))
    return max(1, round(wide * scale)), max(1, round(height * scale))


def is_mirrored(matrix: tuple[int, ...] | None) -> bool:
    """Whether a display matrix mirrors, beside turning."""
    return matrix is not None and matrix[0] * matrix[4] - matrix[1] * matrix[3] < 0


class PictureMaker:
    """Makes pictures of the frames of one video, which may change their size and kind on the way.

    aspect: width of a pixel over its height. threads: of the filters; 0 leaves it to them.
    mirror: the display matrix of all frames, where a picture's EXIF mirrors it: PyAV tells the angle alone.
    plain: pictures as OpenCV hands them to the reference program: turned, but neither mirrored, woven nor made square,
        and high ranges not brought down.
    longest: of the sides of a picture, which is scaled down to it; None leaves it as it is.
    """

    def __init__(
        self,
        aspect: Fraction,
        threads: int,
        plain: bool = False,
        mirror: tuple[int, ...] | None = None,
        longest: int | None = None,
    ) -> None:
        self._aspect = Fraction(1) if plain else aspect
        self._threads = threads
        self._plain = plain
        self._mirror = mirror
        self._longest = longest
        self._small: PictureMaker | None = None
        self._kind: tuple[object, ...] = ()
        self._matrix: tuple[int, ...] | None = None
        self._graph: Any = None
        self._pushed = 0

    def small(self, longest: int) -> PictureMaker:
        """One that makes pictures of the same frames scaled down, at a third of the work for common sizes."""
        if self._small is None or self._small._longest != longest:
            # So little work is done sooner by one thread than spread.
            self._small = PictureMaker(self._aspect, 1, self._plain, self._mirror, longest)
        return self._small

    def picture(self, frame: Any, before: Any, after: Any) -> np.ndarray:
        """uint8 RGB [H, W, 3] of a frame. before, after: its neighbours, where it has some of its kind.

        Raises av.FFmpegError where FFmpeg cannot convert it.
        """
        woven = bool(frame.interlaced_frame) and not self._plain
        kind = _kind(frame)
        if (kind, woven) != self._kind or frame.key_frame:
            # Where a display matrix changes, a key frame tells, or the angle, which is of a frame's kind.
            matrix = self._mirror or matrix_of(frame)
            if (kind, woven, matrix) != (*self._kind, self._matrix):
                self._graph = self._make(frame, woven, matrix)
            self._kind, self._matrix = (kind, woven), matrix
        if not woven:
            return self._push(frame, 1)
        # Two outputs belong to neighbours. The first and the last frame are their own neighbour, as in ffmpeg.
        self._push(before if before is not None and _kind(before) == kind else frame, 2)
        wanted = self._pushed
        self._push(frame, 2)
        return self._push(after if after is not None and _kind(after) == kind else frame, 2, wanted)

    def _push(self, frame: Any, units: int, wanted: int | None = None) -> Any:
        """Pushes a frame; the picture that comes out with the stamp `wanted`, or any if none is named."""
        frame.pts = self._pushed
        self._pushed += 1
        self._graph.vpush(frame)
        picture = None
        while True:
            try:
                out = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return picture
            if units == 1:
                return out.to_ndarray()
            if wanted is not None and out.pts == units * wanted:
                picture = out.to_ndarray()

    def _make(self, frame: Any, woven: bool, matrix: tuple[int, ...] | None) -> Any:
        high = transfer_of(frame) in HIGH_RANGE and not self._plain
        try:
            return self._configured(frame, woven, matrix, high)
        except av.FFmpegError:
            if not high:
                raise
            return self._configured(frame, woven, matrix, False)  # an FFmpeg that does not map ranges

    def _configured(self, frame: Any, woven: bool, matrix: tuple[int, ...] | None, high: bool) -> Any:
        graph = av.filter.Graph()
        if hasattr(graph, "threads"):  # PyAV 18
            graph.threads = self._threads
        turned = turns(matrix, self._plain)
        quarter = bool(turned) and turned[0][0] == "transpose"
        width, height = (frame.height, frame.width) if quarter else (frame.width, frame.height)
        aspect = 1 / self._aspect if quarter else self._aspect
        wide, high_ = shown_size(width, height, aspect)
        flags = "bicubic"
        if self._longest is not None and max(wide, high_) > self._longest:
            factor = max(wide, high_) / self._longest
            wide, high_ = max(1, round(wide / factor)), max(1, round(high_ / factor))
            flags = "fast_bilinear"  # to find shots in: the same ones as in whole pictures scaled by OpenCV
        scaling = f"{wide}:{high_}:flags={flags}"
        if high:
            scaling += ":out_primaries=bt709:out_transfer=bt709:out_color_matrix=bt709"
        filters = [("bwdif", "mode=send_frame:deint=interlaced")] if woven else []
        filters += [*turned, ("scale", scaling), ("format", "rgb24"), ("buffersink", "")]
        graph.link_nodes(
            _source(graph, frame), *(graph.add(name, options or None) for name, options in filters)
        ).configure()
        return graph


def transfer_of(frame: Any) -> int:
    """The number of a frame's transfer function in ITU-T H.273; 2, unspecified, where PyAV is too old to say."""
    return int(getattr(frame, "color_trc", 2))


def matrix_of(frame: Any) -> tuple[int, ...] | None:
    """The display matrix of a frame, nine numbers; None for an upright one."""
    try:
        # As `frame.side_data`, which the frame would keep: each would then hold the other, pixels and all, until
        # Python's garbage collector looks for such pairs.
        data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV knows no name for something beside it (EXIF in pictures); the angle is told all the same
        angle = math.radians(frame.rotation)
        cosine, sine = round(65536 * math.cos(angle)), round(65536 * math.sin(angle))
        return (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30) if frame.rotation else None
    return None if data is None else struct.unpack("=9i", bytes(data)[:36])


def _source(graph: Any, frame: Any) -> Any:
    """Where frames like this one enter a graph."""
    return graph.add(
        "buffer", video_size=f"{frame.width}x{frame.height}", pix_fmt=frame.format.name, time_base="1/1000",
        pixel_aspect="1/1", colorspace=str(int(frame.colorspace)), range=str(int(frame.color_range)),
    )  # fmt: skip


def _kind(frame: Any) -> tuple[object, ...]:
    """What a filter graph is set up for, but for the display matrix."""
    return (
        frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, transfer_of(frame),
        frame.rotation,
    )  # fmt: skip
