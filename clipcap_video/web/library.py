"""The videos that were described since the page was opened: captions, segments, subtitles, and a search over them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.formats import FORMATS, Results, Wording
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.streaming import joined
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import VideoError
from clipcap_video.video.segments import Segmentation, SegmentedVideo
from clipcap_video.web.preview import plays, write_preview

MEGABYTE = 1_000_000
MOST_HOURS = 4
BATCH = 4  # segments captioned at once: few, so that captions show early
MOST_PIXELS = 40_000_000  # of a frame; 8K has 33 million


@dataclass(frozen=True)
class DescribedVideo:
    """number: its place in the library. caption: of the whole video. segments: with start and end, neighbours that say
    the same joined.

    subtitle_files: kind (srt, vtt) -> file. played: what browsers play of it, which may be a preview; None: nothing.
    """

    number: int
    name: str
    path: Path
    caption: Caption
    segments: list[Prediction]
    subtitle_files: dict[str, Path]
    played: Path | None

    @property
    def is_preview(self) -> bool:
        return self.played != self.path


@dataclass(frozen=True)
class UnderWay:
    """How far a video is. segments: so far. end: of the last of them, and duration: of the video, in seconds."""

    segments: list[Prediction]
    end: float
    duration: float

    @property
    def share(self) -> float:
        return min(1.0, self.end / self.duration) if self.duration else 0.0


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

    def describe(self, path: Path, segmentation: Segmentation) -> Iterator[UnderWay | DescribedVideo]:
        """Captions a video file and remembers it: how far it is, as segments are done, then the described video.

        Raises VideoError, with one sentence to show, when the file is too large or no video.
        """
        check_size(path, self._most_bytes)
        with self._at_work:
            try:
                yield from self._describe(path, segmentation)
            except VideoError as error:
                # The path is the server's own; who dropped the file knows it by its name.
                raise VideoError(str(error).replace(str(path), path.name)) from None

    def _describe(self, path: Path, segmentation: Segmentation) -> Iterator[UnderWay | DescribedVideo]:
        captioner = self._captioner
        sampling = captioner.require_fingerprint().sampling
        video = SegmentedVideo(path, segmentation, sampling, captioner.encoder.preprocess)
        check_length(path.name, video.duration)
        check_pixels(path.name, video.pixels)
        folder = self._folder / str(len(self.videos))
        folder.mkdir(exist_ok=True)
        predictions: list[Prediction] = []
        with _preview(path, folder) as preview:
            for batch in captioner.caption_batches(video, self._settings, batch_size=BATCH):
                predictions += batch
                yield UnderWay(list(joined(predictions)), predictions[-1].end or 0.0, video.duration)
            segments = list(joined(predictions))
            whole = segments[0] if len(segments) == 1 else captioner.caption(path, self._settings)
            files = {}
            for name in ("srt", "vtt"):
                files[name] = folder / f"{path.stem}{FORMATS[name].ending}"
                FORMATS[name].write(files[name], Results(segments, wording=self._wording))
            played = preview.result()
        described = DescribedVideo(len(self.videos), path.name, path, whole.captions[0], segments, files, played)
        self.videos.append(described)
        yield described

    def search(self, query: str) -> list[Hit]:
        """Captions that have every word of `query`, or words that begin so, the newest video first.

        Without a word, all videos.
        """
        words = query.casefold().split()
        hits = []
        for video in reversed(self.videos):
            whole = Hit(video, None, None, video.caption.text)
            if not words:
                hits.append(whole)
                continue
            parts = [Hit(video, part.start, part.end, part.text) for part in video.segments]
            hits += [hit for hit in (whole, *parts) if _matches(words, hit.text)]
        return hits


@contextmanager
def _preview(path: Path, folder: Path) -> Iterator[Future[Path | None]]:
    """What browsers play of a video, made beside the captions; given up where the block is left early."""
    stop, copy = threading.Event(), folder / f"{path.stem}.preview.mp4"

    def make() -> Path | None:
        if plays(path):
            return path
        try:
            write_preview(path, copy, stop)
        except (av.FFmpegError, OSError, VideoError):  # captions without a picture are better than none
            return None
        return copy

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(make)
        finally:
            stop.set()


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
