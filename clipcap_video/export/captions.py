"""A report page of predictions: their frames are read from the videos again, at the times the model saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import VideoError
from clipcap_video.export.report import ReportCaption, ReportEntry, ReportFrame, write_report
from clipcap_video.predictions import Prediction
from clipcap_video.video.reader import read_frames
from clipcap_video.video.sampling import SamplingSpec, spread

SHOWN_FRAMES = 8
FRAME_SIDE = 240


def report_predictions(
    predictions: Sequence[Prediction],
    out: Path,
    sampling: SamplingSpec,
    details: Mapping[str, str],
    records: Sequence[VideoRecord] = (),
) -> Path:
    """Writes a page with up to 8 of the sampled frames of each video, its captions, and references where known.

    predictions need their `path`; sampling is how the model's frames were chosen.
    """
    references = {record.video_id: record.captions for record in records}
    entries = [
        ReportEntry(
            video_id=found.video,
            captions=[
                ReportCaption(caption.text, caption.mean_logprob, caption.logprob, caption.cut)
                for caption in found.captions
            ],
            frames=list(_frames(found, sampling)),
            path=found.path,
            references=references.get(found.video, []),
        )
        for found in predictions
    ]
    return write_report(entries, out, title="Video captions", details=details)


def _frames(prediction: Prediction, sampling: SamplingSpec) -> Iterator[ReportFrame]:
    if prediction.path is None:
        return
    try:
        images, times = read_frames(prediction.path, sampling, max_side=FRAME_SIDE)
    except VideoError:  # it was readable when it was captioned; a page without its frames is better than none
        return
    for index in spread(len(images), SHOWN_FRAMES):
        yield ReportFrame(np.ascontiguousarray(images[index]), float(times[index]))
