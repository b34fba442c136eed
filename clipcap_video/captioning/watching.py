"""A live source watched: a thread reads it and cuts it where the picture changes, this one captions what it cut.

What waits between them is bounded. Where captions take longer than what they describe, the oldest of it is left out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import PurePath

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import VideoError
from clipcap_video.stopping import Stopped
from clipcap_video.video.decoder import Frame
from clipcap_video.video.live import LiveVideo, is_url, shown_place
from clipcap_video.video.reader import Transform, one_opencv_thread
from clipcap_video.video.sampling import FrameClock, SamplingSpec
from clipcap_video.video.segments import MOST_LOOKS, Segmentation, SegmentBuilder, SegmentFrames

MOST_WAITING = 4  # segments that wait for their captions
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a lost source is opened again; each is twice the last
NEWS_SECONDS = 10.0  # between two lines about what was dropped
POLL_SECONDS = 0.1


@dataclass
class Counts:
    """dropped_frames, dropped_segments: left out to keep up. reopened: times that a lost source came back."""

    captions: int = 0
    dropped_frames: int = 0
    dropped_segments: int = 0
    reopened: int = 0

    @property
    def dropped(self) -> str:
        told = [(self.dropped_frames, "frame"), (self.dropped_segments, "segment")]
        return " and ".join(f"{number:,} {what}{'' if number == 1 else 's'}" for number, what in told) + " dropped"

    def __str__(self) -> str:
        times = "once" if self.reopened == 1 else f"{self.reopened} times"
        reopened = f"; opened again {times}" if self.reopened else ""
        return f"{self.captions:,} caption{'' if self.captions == 1 else 's'}; {self.dropped}{reopened}"


@dataclass(frozen=True)
class Seen:
    """A segment, and when it began, UTC."""

    segment: SegmentFrames
    at: datetime


@dataclass(frozen=True)
class Sighting:
    """What was seen from `prediction.start` to `.end`, in seconds since the first frame. at: when it began, UTC."""

    prediction: Prediction
    at: datetime


class LiveSegments:
    """Segments of a live source, read in a thread; a context manager.

    place, patience: see LiveVideo. segmentation: how long shots are; one is cut where it gets longer than `longest`, so
    it is given at most that and `shortest` after its beginning. spec, transform: see SegmentedVideo.
    stop: ends the thread. tell: is given a line when the source is lost, when it is back, and when it drops something.

    Raises VideoError on entry where the source cannot be opened.
    """

    def __init__(
        self,
        place: str,
        segmentation: Segmentation,
        spec: SamplingSpec,
        transform: Transform,
        *,
        patience: float = 10.0,
        stop: threading.Event | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.place, self.shown, self.counts = place, shown_place(place), Counts()
        self._segmentation, self._spec, self._transform = segmentation, spec, transform
        self._patience, self._stop, self._tell = patience, stop or threading.Event(), tell
        self._told, self._told_at = self.counts.dropped, -float("inf")
        self._first_frame: float | None = None
        self._last = 0.0  # seconds since the first frame
        self._waiting: deque[Seen] = deque()
        self._changed, self._opened = threading.Condition(), threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        # A daemon, so that a source that says nothing cannot keep the process alive.
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)

    def __enter__(self) -> LiveSegments:
        self._thread.start()
        # To open a source may take long; a timeout lets Ctrl-C in on every system.
        while not (self._opened.wait(POLL_SECONDS) or self._stop.is_set()):
            pass
        if self._error is not None and not self._stop.is_set():
            raise self._error
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(1.0)

    def take(self) -> list[Seen]:
        """The segments that wait, at least one; none at the end. Raises whatever broke the thread."""
        with self._changed:
            while not (self._waiting or self._ended or self._stop.is_set()):
                self._changed.wait(POLL_SECONDS)  # a timeout lets Ctrl-C in on every system
            if self._stop.is_set():
                return []
            if self._error is not None and not self._waiting:
                raise self._error
            taken = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        return taken

    def _work(self) -> None:
        try:
            video = LiveVideo(self.place, self._patience, self._stop)
            self._opened.set()
            reason, pause = self._read(video), FIRST_PAUSE
            while video.lasts and not self._stop.is_set():
                self._tell(f"{reason}; trying again in {pause:g} s")
                if self._stop.wait(pause):
                    break
                before = self._last
                try:
                    reason = self._read(LiveVideo(self.place, self._patience, self._stop))
                except VideoError as error:
                    reason = str(error)
                pause = FIRST_PAUSE if self._last > before else min(2 * pause, LONGEST_PAUSE)
        except BaseException as error:  # whatever it is, the consumer must see it
            self._error = error
        self._opened.set()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self, video: LiveVideo) -> str:
        """Reads a source to its end, or until it is lost; says why that was."""
        cutter: _Cutter | None = None
        counted, reason = 0, f"{video.shown} ended"
        with video:
            try:
                for frame in video:
                    cutter = cutter or self._begin()
                    self.counts.dropped_frames += video.dropped - counted
                    counted, self._last = video.dropped, cutter.offset + frame.time
                    self._tell_of_drops()
                    for segment in cutter.add(frame):
                        self._put(segment, video)
            except VideoError as error:
                if not video.lasts:
                    raise
                reason = str(error)
            self.counts.dropped_frames += video.dropped - counted
            if cutter is not None and not self._stop.is_set():
                for segment in cutter.finish():
                    self._put(segment, video)
        return reason

    def _tell_of_drops(self) -> None:
        now, dropped = time.monotonic(), self.counts.dropped
        if dropped != self._told and now - self._told_at > NEWS_SECONDS:
            self._tell(f"it falls behind: {dropped} so far")
            self._told, self._told_at = dropped, now

    def _begin(self) -> _Cutter:
        """At the first frame of an opened source, whose time is that of the clock on the wall."""
        now = time.monotonic()
        if self._first_frame is None:
            self._first_frame = now
        else:
            self.counts.reopened += 1
            self._tell(f"{self.shown} is back")
        offset = max(self._last, now - self._first_frame)
        return _Cutter(self._segmentation, self._spec, self._transform, offset)

    def _put(self, segment: SegmentFrames, video: LiveVideo) -> None:
        age = self._last - segment.start + max(0.0, video.clock.behind)
        seen = Seen(segment, datetime.now(timezone.utc) - timedelta(seconds=age))
        with self._changed:
            while len(self._waiting) >= MOST_WAITING and not self._stop.is_set():
                if video.lasts or video.clock.is_live(time.monotonic()):
                    self._waiting.popleft()
                    self.counts.dropped_segments += 1
                else:  # what is there already can wait
                    self._changed.wait(POLL_SECONDS)
            self._waiting.append(seen)
            self._changed.notify_all()


class _Cutter:
    """Frames as they come, in segments. offset: seconds at the first of them."""

    def __init__(self, segmentation: Segmentation, spec: SamplingSpec, transform: Transform, offset: float) -> None:
        from clipcap_video.video.shots import ShotDetector

        self.offset = self._begun = self._last = offset
        self._longest = segmentation.longest
        self._looks, self._detector = FrameClock(MOST_LOOKS), ShotDetector()
        self._builder = SegmentBuilder(segmentation, spec, transform, offset)

    def add(self, frame: Frame) -> Iterator[SegmentFrames]:
        if self._looks.is_base(frame.time):
            yield from self._built(self._detector.add(frame))

    def finish(self) -> Iterator[SegmentFrames]:
        yield from self._built(self._detector.flush())
        yield from self._builder.finish(self._last + 1 / MOST_LOOKS)

    def _built(self, looks: Iterator[tuple[Frame, bool]]) -> Iterator[SegmentFrames]:
        for frame, is_cut in looks:
            self._last = self.offset + frame.time
            if is_cut or self._last - self._begun >= self._longest:
                self._begun, is_cut = self._last, True
            yield from self._builder.add(self._last, frame.picture, is_cut)


def watch(
    segments: LiveSegments, captioner: Captioner, settings: DecodingSettings, *, repeats: bool = False
) -> Iterator[Sighting]:
    """Captions of a live source, as they are done, until it ends or is stopped.

    segments: entered. repeats: also those with the words of the one before.
    """
    place = segments.shown
    name = place if is_url(place) else PurePath(place).stem
    said: str | None = None
    with one_opencv_thread(), suppress(Stopped):
        while batch := segments.take():
            predictions = captioner.caption_segments(name, [one.segment for one in batch], settings)
            for one, prediction in zip(batch, predictions, strict=True):
                segments.counts.captions += 1
                if repeats or prediction.text.casefold() != said:
                    yield Sighting(replace(prediction, path=place), one.at)
                said = prediction.text.casefold()
