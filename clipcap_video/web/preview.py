"""What browsers can play of a video: the file itself, or a small copy of its picture."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from clipcap_video.video.decoder import Decoder
from clipcap_video.video.packets import MATROSKA, MOV
from clipcap_video.video.sampling import FrameClock

# Container -> codecs that common browsers play in it, as FFmpeg calls their decoders.
PLAYABLE = {
    MOV: ("h264", "vp9", "libvpx-vp9", "av1", "libdav1d"),
    MATROSKA: ("vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d"),
}
PIXELS = ("yuv420p", "yuvj420p")
SIDE = 640  # pixels of the longer side of a preview
RATE = 30.0  # most frames a second
UNIT = 1000  # stamps a second


def plays(path: Path) -> bool:
    """Whether browsers play a file as it is. Raises VideoError where it is no video."""
    with Decoder(path) as decoder:
        source = decoder.source
        return source.codec in PLAYABLE.get(source.format, ()) and source.context.pix_fmt in PIXELS


def write_preview(path: Path, out: Path, stop: threading.Event | None = None) -> None:
    """Writes the video's picture, without its sound, as H.264 of SIDE pixels at most, to `out`, an .mp4.

    stop: looked at before every frame; once set, the preview ends there. Raises VideoError where there is no video.
    """
    clock, last = FrameClock(RATE), -1
    with Decoder(path) as decoder, av.open(str(out), "w", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for frame in decoder:
            if stop is not None and stop.is_set():
                break
            picture = frame.picture(SIDE) if clock.is_base(frame.time) else None
            stamp = round(frame.time * UNIT)
            if picture is None or stamp <= last:
                continue
            if stream is None:
                stream = _stream(container, picture)
            last = stamp
            container.mux(stream.encode(_frame(picture, stream, stamp)))
        if stream is not None:
            container.mux(stream.encode(None))


def _stream(container: Any, picture: np.ndarray) -> Any:
    stream = container.add_stream("libx264", rate=round(RATE), options={"preset": "ultrafast", "crf": "26", "g": "60"})
    stream.height, stream.width = (max(2, side // 2 * 2) for side in picture.shape[:2])  # H.264 wants even sides
    stream.pix_fmt = PIXELS[0]
    stream.codec_context.time_base = Fraction(1, UNIT)
    return stream


def _frame(picture: np.ndarray, stream: Any, stamp: int) -> Any:
    if picture.shape[:2] != (stream.height, stream.width):
        picture = cv2.resize(picture, (stream.width, stream.height), interpolation=cv2.INTER_AREA)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts, frame.time_base = stamp, Fraction(1, UNIT)
    return frame
