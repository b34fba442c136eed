"""The videos that were described since the page was opened: captions, segments, subtitles, and a search over them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.formats import FORMATS, Results, Wording
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.streaming import joined
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import VideoError
from clipcap_video.video.segments import Segmentation, SegmentedVideo

MEGABYTE = 1_000_000
MOST_HOURS = 4
MOST_PIXELS = 40_000_000  # of a frame; 8K has 33 million


@dataclass(frozen=True)
class DescribedVideo:
    """number: its place in the library. caption: of the whole video. segments: with start and end, neighbours that say
    the same joined.

    subtitle_files: kind (srt, vtt) -> file.
    """

    number: int
    name: str
    path: Path
    caption: Caption
    segments: list[Prediction]
    subtitle_files: dict[str, Path]


@dataclass(frozen=True)
class Hit:
    """start, end: seconds; None where the caption of the whole video was found."""

    video: DescribedVideo
    start: float | None
    end: float | None
    text: str


class Library:
    """Describes videos, one at a time, and finds them again by words of their captions.

    videos: those described so far. folder: for the subtitle files, which `wording` words. most_bytes: larger files
    are refused.
    """

    def __init__(
        self,
        captioner: Captioner,
        settings: DecodingSettings,
        folder: Path,
        most_bytes: int,
        wording: Wording | None = None,
    ) -> None:
        self._wording = wording or Wording()
        self._captioner = captioner
        self._settings = settings
        self._folder = folder
        self._most_bytes = most_bytes
        self.videos: list[DescribedVideo] = []
        self._at_work = threading.Lock()
        self._closed = threading.Event()

    def close(self) -> None:
        """Breaks off what is being described."""
        self._closed.set()

    def describe(
        self, path: Path, segmentation: Segmentation, progress: Callable[[float], None] = lambda share: None
    ) -> DescribedVideo:
        """Captions a video file and remembers it. progress: is told the share that is done.

        Raises VideoError, with one sentence to show, when the file is too large or no video.
        """
        check_size(path, self._most_bytes)
        with self._at_work:
            try:
                return self._describe(path, segmentation, progress)
            except VideoError as error:
                # The path is the server's own; who dropped the file knows it by its name.
                raise VideoError(str(error).replace(str(path), path.name)) from None

    def _describe(self, path: Path, segmentation: Segmentation, progress: Callable[[float], None]) -> DescribedVideo:
        captioner = self._captioner
        sampling = captioner.require_fingerprint().sampling
        video = SegmentedVideo(path, segmentation, sampling, captioner.encoder.preprocess, stop=self._closed)
        check_length(path.name, video.duration)
        check_pixels(path.name, video.pixels)
        predictions: list[Prediction] = []
        for batch in captioner.caption_batches(video, self._settings):
            self._check_open()
            predictions += batch
            progress(min(1.0, video.position / video.duration) if video.duration else 0.0)
        self._check_open()
        segments = list(joined(predictions))
        whole = segments[0] if len(segments) == 1 else captioner.caption(path, self._settings)
        folder = self._folder / str(len(self.videos))
        folder.mkdir()
        files = {}
        for name in ("srt", "vtt"):
            files[name] = folder / f"{path.stem}{FORMATS[name].ending}"
            FORMATS[name].write(files[name], Results(segments, wording=self._wording))
        described = DescribedVideo(len(self.videos), path.name, path, whole.captions[0], segments, files)
        self.videos.append(described)
        return described

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise VideoError("the page ends, and the video is not captioned")

    def search(self, query: str) -> list[Hit]:
        """Captions that have every word of `query`, or words that begin so, the newest video first."""
        words = query.casefold().split()
        if not words:
            return []
        hits = []
        for video in reversed(self.videos):
            whole = Hit(video, None, None, video.caption.text)
            parts = [Hit(video, part.start, part.end, part.text) for part in video.segments]
            hits += [hit for hit in (whole, *parts) if _matches(words, hit.text)]
        return hits


def check_size(path: Path, most_bytes: int) -> None:
    """Raises VideoError for a file that is too large."""
    size = path.stat().st_size
    if size > most_bytes:
        raise VideoError(
            f"{path.name} has {size / MEGABYTE:,.0f} MB and the limit is {most_bytes / MEGABYTE:,.0f} MB; cut it, or "
            "start clipcap-video serve with a higher --max_mb"
        )


def check_length(name: str, seconds: float) -> None:
    """Raises VideoError for a video that is too long."""
    if seconds > MOST_HOURS * 3600:
        raise VideoError(
            f"{name} lasts {seconds / 3600:.1f} hours and the limit is {MOST_HOURS}; caption it with "
            "clipcap-video caption"
        )


def check_pixels(name: str, pixels: int) -> None:
    """Raises VideoError for a video whose frames are too large."""
    if pixels > MOST_PIXELS:
        raise VideoError(
            f"{name} has {pixels / 1e6:.0f} million pixels a frame and the limit is {MOST_PIXELS / 1e6:.0f}; scale it "
            "down"
        )


def _matches(words: list[str], text: str) -> bool:
    present = text.casefold().split()
    return all(any(other.startswith(word) for other in present) for word in words)
