"""A report page of predictions: their frames are read from the videos again, at the times the model saw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from clipcap_video.captioning.predictions import Prediction
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.report.page import Picture, ReportEntry, ReportFrame, encode_picture, write_report
from clipcap_video.report.verdicts import Verdict
from clipcap_video.video.reader import one_opencv_thread, read_frames, read_frames_at
from clipcap_video.video.sampling import SamplingSpec, spread

# A page of many videos stays small enough to open at once and to send by mail: below 40 MB for 2,000.
MANY_VIDEOS = 300
FRAMES, FRAMES_OF_MANY = 8, 5
SIDE, SIDE_OF_MANY = 240, 160
QUALITY, QUALITY_OF_MANY = 75, 55
# Segments of one video that are read in one pass: to open a long file and find a place takes as long as some of them.
LONGEST_RUN = 32


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
        """The defaults of a page of so many videos, where they are not given."""
        many = videos > MANY_VIDEOS
        return cls(
            (FRAMES_OF_MANY if many else FRAMES) if frames is None else frames,
            (SIDE_OF_MANY if many else SIDE) if side is None else side,
            QUALITY_OF_MANY if many else QUALITY,
        )


def report_predictions(
    predictions: Sequence[Prediction],
    out: Path,
    details: Mapping[str, str],
    records: Sequence[VideoRecord] = (),
    *,
    cider: Mapping[str, float] | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    pictures: Pictures | None = None,
    title: str = "Video captions",
    workers: int = 2,
) -> Path:
    """Writes a page of the predictions, with frames where their `path` is known, and references where `records` are.

    cider: of each video's best caption. verdicts: of people who looked, by video. pictures: how many and how large;
    chosen by the number of videos if None. workers: threads that decode videos.
    """
    references = {record.video_id: record.captions for record in records}
    pictures = pictures or Pictures.for_page_of(len(predictions))

    def entry(prediction: Prediction, frames: list[ReportFrame]) -> ReportEntry:
        return ReportEntry(
            prediction,
            frames,
            references=references.get(prediction.video, []),
            cider=None if cider is None else cider.get(prediction.video),
            verdict=None if verdicts is None else verdicts.get(prediction.video),
        )

    def entries_of(run: list[Prediction]) -> list[ReportEntry]:
        return [entry(prediction, frames) for prediction, frames in zip(run, _frames(run, pictures), strict=True)]

    def entries() -> Iterator[ReportEntry]:
        # A few videos at a time, so that their pictures never pile up.
        runs = _runs(predictions)
        with one_opencv_thread(), ThreadPoolExecutor(workers) as pool:
            while part := list(islice(runs, 4 * workers)):
                for made in pool.map(entries_of, part):
                    yield from made

    segments = len({prediction.video for prediction in predictions}) < len(predictions)
    return write_report(
        entries(),
        out,
        count=len(predictions),
        counted="segments" if segments else "videos",
        title=title,
        details=details,
    )


def _runs(predictions: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    """The predictions in their order, neighbours together that one pass over a stretch of a video can show."""
    run: list[Prediction] = []
    for prediction in predictions:
        if run and (len(run) == LONGEST_RUN or not _follows(run[-1], prediction)):
            yield run
            run = []
        run.append(prediction)
    if run:
        yield run


def _follows(first: Prediction, second: Prediction) -> bool:
    timed = first.path is not None and first.path == second.path and first.timestamps and second.timestamps
    return bool(timed) and first.timestamps[-1] <= second.timestamps[0]


def _frames(run: Sequence[Prediction], pictures: Pictures) -> list[list[ReportFrame]]:
    """The frames to show of each prediction in a run of `_runs`."""
    shown = [_choose(prediction, pictures.frames) for prediction in run]
    times = [frame.seconds for part in shown for frame in part]
    timed = [time for time in times if time is not None]
    if len(run) > 1 and len(timed) < len(times):
        return [frames for prediction in run for frames in _frames([prediction], pictures)]
    if run[0].path is None:
        return [[frame for frame in part if frame.drop is not None] for part in shown]
    path = Path(run[0].path)

    def encode(image: np.ndarray) -> Picture:
        return encode_picture(image, pictures.side, pictures.quality)

    small: list[Picture | None] = [None] * len(times)
    # A video that was readable when it was captioned: a page without its frames is better than none.
    with suppress(VideoError):
        if times and len(timed) == len(times):
            small = read_frames_at(path, timed, encode)
        else:  # features that never knew their times: any frames, spread over the video
            images, spread_times = read_frames(path, SamplingSpec(frames=pictures.frames), max_side=pictures.side)
            small = [encode(image) for image in images]
            shown = [[ReportFrame(None, float(time)) for time in spread_times]]
    made = iter(small)
    frames = [[replace(frame, picture=next(made)) for frame in part] for part in shown]
    return [[frame for frame in part if frame.picture is not None or frame.drop is not None] for part in frames]


def _choose(prediction: Prediction, most: int) -> list[ReportFrame]:
    """The frames that stand for the stretches of the evidence; without it, some that are evenly spread.

    Where there are more stretches than room, those that matter most either way stay, in order of time.
    """
    times = prediction.timestamps

    def time(position: int) -> float | None:
        return times[position] if position < len(times) else None

    if not prediction.evidence:
        return [ReportFrame(None, times[index]) for index in spread(len(times), most)]
    kept = sorted(prediction.evidence, key=lambda part: -abs(part.drop))[:most]
    shown = []
    for part in sorted(kept, key=lambda part: part.first):
        middle = (part.first + part.last) // 2
        first, last = time(part.first), time(part.last)
        spans = None if first is None or last is None or part.first == part.last else (first, last)
        shown.append(ReportFrame(None, time(middle), part.drop, spans))
    return shown
