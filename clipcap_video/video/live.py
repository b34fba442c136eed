"""Live video: frames of a camera, a stream, a pipe or a growing file as they come, rather new than complete.

Nothing is sought and nothing is kept. Where decoding, and whoever looks at the frames, is slower than the source,
frames are dropped up to a key frame, so that it never lags by much more than MOST_BEHIND.
"""

from __future__ import annotations

import os
import re
import select
import stat
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from clipcap_video.errors import VideoError, first_line
from clipcap_video.files import kind_of
from clipcap_video.video.decoder import Frame
from clipcap_video.video.errors import SOUND, tolerantly
from clipcap_video.video.packets import LONGEST_STEP, FrameTimes
from clipcap_video.video.picture import PictureMaker
from clipcap_video.video.source import stream_rate

POLL_SECONDS = 0.1
MOST_BEHIND = 1.0  # seconds
# Key frames that are decoded all the same while frames are left out, for a stream of nothing else: one in so many
# seconds.
KEY_FRAME_SECONDS = 1.0
# Packets before the first key frame, after which it is taken for granted that none will come.
MOST_UNDECODABLE = 500
# What may be opened by what a source says (a playlist, a session description): no files.
PROTOCOLS = "rtsp,rtsps,rtp,srtp,rtmp,rtmps,udp,tcp,tls,srt,http,https,httpproxy,crypto,data,fd"

# What FFmpeg looks at before it begins is late already.
QUICKLY = {"fpsprobesize": "0", "analyzeduration": "1000000"}


def is_url(place: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def shown_place(place: str) -> str:
    """A source as it is to be printed: without the password of a URL."""
    return "stdin" if place == "-" else re.sub(r"(?<=://)[^/@]*@", "", place)


class LiveClock:
    """Whether a reader keeps up with a live source, as `behind`, in seconds.

    Whoever has to wait for a packet has seen all that there is. From then on the packets' times and the clock on the
    wall should advance together. A source that is faster (a file that is already there) is never behind.
    """

    # A wait of LONG seconds is one for the source. A SHORT one may be for the processor, so it settles little: enough
    # for two clocks that drift apart.
    LONG, SHORT, SETTLED = 0.25, 0.01, 0.001
    # For so many seconds behind a wait a source counts as live.
    RECENT = 5.0

    def __init__(self) -> None:
        self.behind = 0.0
        self.stamp = 0.0  # of the last packet
        self._anchor: float | None = None  # the clock on the wall at the packets' time 0
        self._waited_at = -float("inf")

    def add(self, stamp: float, now: float, waited: float) -> None:
        """Takes the time of a packet, and how long it was waited for until `now`; all in seconds."""
        if self._anchor is None or abs(stamp - self.stamp) > LONGEST_STEP:  # the source's clock restarted
            self._anchor = now - stamp
        self.stamp = stamp
        late = now - stamp - self._anchor
        if waited > self.SHORT:
            self._waited_at = now
            self._anchor += late if late < 0 or waited > self.LONG else min(late, self.SETTLED)
        self.behind = now - stamp - self._anchor

    def is_live(self, now: float) -> bool:
        """Whether the source was waited for lately, so that what is not read now is lost or late."""
        return now - self._waited_at < self.RECENT


class LiveVideo:
    """An open live source; a context manager. Iterate once, to its end, for its frames.

    place: a URL (rtsp://, ...), a device (/dev/video0), a file that grows, a named pipe, or `-` for standard input.
    patience: seconds without data after which a stream is lost and a file has ended.
    stop: once set, the iteration ends at the next packet. A thread that waits for one is not woken.
    dropped: frames that were left out to keep up. lasts: whether the source is one that comes back when it ends.

    Raises VideoError, in a sentence, where the source cannot be opened, and while iterating where it is lost.
    """

    def __init__(self, place: str, patience: float, stop: threading.Event) -> None:
        self.shown = shown_place(place)
        self.dropped = 0
        self.clock = LiveClock()
        self._stop = stop
        self._file: _Tail | None = None
        kind = "pipe" if place == "-" else "stream" if is_url(place) else kind_of(Path(place))
        self.lasts = kind in ("stream", "device")
        try:
            self._container = self._opened(place, kind, patience)
            self._stream = self._best_stream()
        except (av.FFmpegError, OSError, ValueError) as error:
            self.close()
            raise VideoError(f"cannot open {self.shown} ({_reason(error)}); {_remedy(kind)}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LiveVideo:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "_container"):
            self._container.close()
        if self._file is not None:
            self._file.close()

    def _opened(self, place: str, kind: str, patience: float) -> Any:
        options = {"protocol_whitelist": PROTOCOLS, **QUICKLY}
        if kind == "stream":
            # Of a camera's packets over UDP many are lost where the network is busy.
            options |= {"rtsp_flags": "prefer_tcp"} if place.lower().startswith("rtsp") else {}
            return av.open(place, options=options, timeout=(patience, patience))
        if kind == "device":
            return av.open(place, format="v4l2", options=QUICKLY)
        if kind not in ("file", "pipe"):
            wrong = "there is no" if kind == "nothing" else "it is a"
            raise ValueError(f"{wrong} {'such file or device' if kind == 'nothing' else kind}")
        self._file = _Tail(place, patience, self._stop)
        return av.open(self._file, options=options)

    def _best_stream(self) -> Any:
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None or stream.codec_context.codec is None:
            raise ValueError("it holds no video that can be decoded")
        stream.thread_type = "AUTO"
        return stream

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order of showing; their times count from the first."""
        stream = self._stream
        unit = float(stream.time_base or 0) or 1 / 90000
        times = FrameTimes(unit, stream_rate(stream), restarts=True)
        maker = PictureMaker(stream.sample_aspect_ratio or Fraction(1), threads=0)
        number = 0
        for packet in self._kept(unit):
            for raw in tolerantly(stream.codec_context, packet):
                if not raw.is_corrupt:
                    yield Frame(raw, number, times(raw.pts), SOUND, maker)
                    number += 1
        if number == 0 and not self.lasts and not self._stop.is_set():
            raise VideoError(f"not one frame of {self.shown} can be decoded; {_remedy('file')}")

    def _kept(self, unit: float) -> Iterator[Any]:
        """Packets that are to be decoded, then None."""
        clock = self.clock
        keys_alone, key_stamp, undecodable = True, -float("inf"), 0
        for packet in self._packets(unit):
            keys_alone = keys_alone or clock.behind > MOST_BEHIND
            if not keys_alone:
                yield packet
                continue
            resumes = clock.behind <= MOST_BEHIND / 2
            if packet.is_keyframe and (resumes or not 0 <= clock.stamp - key_stamp < KEY_FRAME_SECONDS):
                keys_alone, key_stamp = not resumes, clock.stamp
                yield packet
            elif key_stamp > -float("inf"):
                self.dropped += 1
            else:  # before the first key frame there is nothing to decode, where the stream has such
                undecodable += 1
                keys_alone = undecodable < MOST_UNDECODABLE
        if not self._stop.is_set():
            yield None

    def _packets(self, unit: float) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while not self._stop.is_set():
            asked = time.monotonic()
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError, ValueError) as error:
                if self.lasts:
                    raise VideoError(f"{self.shown} is lost ({_reason(error)})") from None
                return  # what is damaged at the end of a file that nobody finished
            if packet is None:
                return
            if not packet.size:
                continue
            now, stamp = time.monotonic(), packet.pts if packet.dts is None else packet.dts
            if stamp is not None:
                self.clock.add(stamp * unit, now, now - asked)
            yield packet


class _Tail:
    """A pipe, or a file that grows, for PyAV: what is there, then what comes.

    patience: seconds that a file must not have grown to have ended; a pipe says its end itself.
    """

    def __init__(self, place: str, patience: float, stop: threading.Event) -> None:
        self._number = 0 if place == "-" else os.open(place, os.O_RDONLY)
        self._grows = stat.S_ISREG(os.fstat(self._number).st_mode)
        self._patience, self._stop, self._ended = patience, stop, False

    def read(self, size: int) -> bytes:
        deadline = time.monotonic() + self._patience
        while not (self._ended or self._stop.is_set()):
            # Windows cannot tell whether a pipe has something.
            if not (self._grows or os.name == "nt" or select.select([self._number], [], [], POLL_SECONDS)[0]):
                continue
            data = os.read(self._number, size)
            self._ended = not data and (not self._grows or time.monotonic() > deadline)
            if data:
                return data
            self._stop.wait(POLL_SECONDS)
        return b""

    def close(self) -> None:
        if self._number != 0:
            os.close(self._number)


def _reason(error: BaseException) -> str:
    if isinstance(error, av.ExitError):
        return "it does not answer"
    return getattr(error, "strerror", None) or first_line(error)


def _remedy(kind: str) -> str:
    if kind == "stream":
        return "check the address, and that the server is up"
    if kind == "device":
        return "check that it is a camera, or pipe it: ffmpeg -i ... -f mpegts - | clipcap-video watch -"
    if kind in ("file", "pipe"):
        return "a recording that grows must be MPEG-TS, Matroska or fragmented MP4; caption finished files with caption"
    return "give a URL such as rtsp://..., a camera such as /dev/video0, a growing file, or - for standard input"
