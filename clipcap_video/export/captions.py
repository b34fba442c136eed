"""A report page of predictions: their frames are read from the videos again, at the times the model saw."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.export.report import Picture, ReportCaption, ReportEntry, ReportFrame, encode_picture, write_report
from clipcap_video.predictions import Prediction
from clipcap_video.video.reader import one_opencv_thread, read_frames, read_frames_at
from clipcap_video.video.sampling import SamplingSpec, spread

# A page of many videos stays small enough to open at once and to send by mail: below 40 MB for 2,000.
MANY_VIDEOS = 300
FRAMES, FRAMES_OF_MANY = 8, 5
SIDE, SIDE_OF_MANY = 240, 160
QUALITY, QUALITY_OF_MANY = 75, 55


@dataclass(frozen=True)
class Pictures:
    """How many frames of a video a page shows, the longer side of each in pixels, and their WebP quality."""

    frames: int = FRAMES
    side: int = SIDE
    quality: int = QUALITY

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= 100:
            raise ClipcapError(f"--frames must lie between 1 and 100, not {self.frames}")
        if not 16 <= self.side <= 4096:
            raise ClipcapError(f"--frame_size must lie between 16 and 4096 pixels, not {self.side}")

    @classmethod
    def for_page_of(cls, videos: int, frames: int | None = None, side: int | None = None) -> Pictures:
        """What suits a page of so many videos, where it is not given."""
        many = videos > MANY_VIDEOS
        return cls(
            (FRAMES_OF_MANY if many else FRAMES) if frames is None else frames,
            (SIDE_OF_MANY if many else SIDE) if side is None else side,
            QUALITY_OF_MANY if many else QUALITY,
        )


@dataclass(frozen=True)
class _Shown:
    """A frame to show: its time, and what the caption owes to the stretch that it stands for; see ReportFrame."""

    seconds: float | None
    drop: float | None
    spans: tuple[float, float] | None


def report_predictions(
    predictions: Sequence[Prediction],
    out: Path,
    details: Mapping[str, str],
    records: Sequence[VideoRecord] = (),
    *,
    cider: Mapping[str, float] | None = None,
    pictures: Pictures | None = None,
    title: str = "Video captions",
    workers: int = 2,
) -> Path:
    """Writes a page of the predictions, with frames where their `path` is known, and references where `records` are.

    cider: of each video's best caption. pictures: how many and how large; chosen by the number of videos if None.
    workers: threads that decode videos.
    """
    references = {record.video_id: record.captions for record in records}
    pictures = pictures or Pictures.for_page_of(len(predictions))

    def entry(found: Prediction) -> ReportEntry:
        return ReportEntry(
            video_id=found.video,
            captions=[
                ReportCaption(caption.text, caption.mean_logprob, caption.logprob, caption.cut)
                for caption in found.captions
            ],
            frames=_frames(found, pictures),
            path=found.path,
            references=references.get(found.video, []),
            cider=None if cider is None else cider.get(found.video),
            start=found.start,
            end=found.end,
        )

    def entries() -> Iterator[ReportEntry]:
        # A few videos ahead of the page, so that their pictures never pile up.
        waiting: deque[Future[ReportEntry]] = deque()
        with one_opencv_thread(), ThreadPoolExecutor(workers) as pool:
            try:
                for found in predictions:
                    waiting.append(pool.submit(entry, found))
                    if len(waiting) > 4 * workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    segments = len({found.video for found in predictions}) < len(predictions)
    return write_report(
        entries(),
        out,
        count=len(predictions),
        counted="segments" if segments else "videos",
        title=title,
        details=details,
    )


def _frames(prediction: Prediction, pictures: Pictures) -> list[ReportFrame]:
    shown = _choose(prediction, pictures.frames)
    if prediction.path is None:
        return [ReportFrame(None, s.seconds, s.drop, s.spans) for s in shown if s.drop is not None]
    path = Path(prediction.path)
    try:
        if shown and all(s.seconds is not None for s in shown):
            images = read_frames_at(path, [s.seconds for s in shown if s.seconds is not None])
        else:  # features that never knew their times: any frames, spread over the video
            found, times = read_frames(path, SamplingSpec(frames=pictures.frames), max_side=pictures.side)
            images, shown = list(found), [_Shown(float(time), None, None) for time in times]
    except VideoError:  # it was readable when it was captioned; a page without its frames is better than none
        images = [None] * len(shown)
    small: list[Picture | None] = [
        None if image is None else encode_picture(image, pictures.side, pictures.quality) for image in images
    ]
    frames = [ReportFrame(p, s.seconds, s.drop, s.spans) for p, s in zip(small, shown, strict=True)]
    return [frame for frame in frames if frame.picture is not None or frame.drop is not None]


def _choose(prediction: Prediction, most: int) -> list[_Shown]:
    """The frames that stand for the stretches of the evidence; without it, some that are evenly spread.

    Where there are more stretches than room, those that matter most either way stay, in order of time.
    """
    times = prediction.timestamps

    def time(position: int) -> float | None:
        return times[position] if position < len(times) else None

    if not prediction.evidence:
        return [_Shown(times[index], None, None) for index in spread(len(times), most)]
    kept = sorted(prediction.evidence, key=lambda part: -abs(part.drop))[:most]
    shown = []
    for part in sorted(kept, key=lambda part: part.first):
        middle = (part.first + part.last) // 2
        first, last = time(part.first), time(part.last)
        spans = None if first is None or last is None or part.first == part.last else (first, last)
        shown.append(_Shown(time(middle), part.drop, spans))
    return shown
