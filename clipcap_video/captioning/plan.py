"""What `infer` and `caption` say with --dry_run: captions of some videos, timed and measured, and thrown away."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.config import InferConfig
from clipcap_video.captioning.formats import FORMATS, Results
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.captioning.run import prepare
from clipcap_video.captioning.stored import caption_trained_on, find_stored
from clipcap_video.decoding import DecodingSettings
from clipcap_video.devices import peak_device_memory
from clipcap_video.errors import VideoError
from clipcap_video.runs import plan as measuring
from clipcap_video.runs.plan import Plan, measure, peak_memory
from clipcap_video.video.files import find_all_videos
from clipcap_video.video.segments import Segmentation, SegmentedVideo

# Of more videos the lengths of so many are looked up.
MOST_LENGTHS = 200


def plan_inference(config: InferConfig, settings: DecodingSettings) -> Plan:
    """What `infer` would take, measured on some of the videos. Writes nothing; scores and page are not counted."""
    captioner, settings = prepare(config, settings)
    files = {} if config.videos is None else find_all_videos(config.videos)
    files = config.share.of(files) if config.share else files
    stored = find_stored(config, captioner) if config.videos is None else None
    ids = list(files) if stored is None else stored.ids
    looked_at: Counter[str] = Counter()

    def caption_some(part: Sequence[str]) -> None:
        if stored is None:
            chosen = {video_id: files[video_id] for video_id in part}
            predictions, summary = captioner.caption_files(chosen, settings, batch_size=config.bs, progress=False)
            looked_at.update(frames=summary.frames, failed=summary.failed)
        elif stored.from_files:
            predictions = caption_trained_on(config, settings, captioner, part)
        else:
            predictions = captioner.caption_store(stored.store, part, settings, batch_size=config.bs)
        # As predictions.json has them.
        size = sum(len(json.dumps(asdict(prediction), indent=1)) for prediction in predictions)
        looked_at.update(videos=len(part), bytes=size)

    if stored is None:
        captioner.encoder  # noqa: B018  (loaded before the clock runs)
    at_once = 16 if stored is None else config.bs
    rate = measure(ids, caption_some, first=at_once, probe=at_once)
    share = len(ids) / max(1, looked_at["videos"])
    notes = []
    if looked_at["failed"]:
        notes.append(f"{looked_at['failed']} of the {looked_at['videos']} videos looked at cannot be read")
    if config.report is not None:
        notes.append("the page comes on top: it reads the frames again")
    if stored is None:
        frames = round(looked_at["frames"] * share)
    else:
        frames = sum(min(stored.store.shape(video_id).frames, captioner.model.max_frames) for video_id in ids)
        if any(record.captions for record in stored.records):
            notes.append("scores against references come on top")
    return Plan(
        command="infer",
        videos=len(ids),
        frames=frames,
        disk=round(looked_at["bytes"] * share),
        where=str(config.place),
        memory=peak_memory(),
        device_memory=peak_device_memory(captioner.device),
        seconds=rate.of(len(ids)),
        measured_on=f"{rate.items:,} videos in {rate.seconds:.1f} s",
        notes=notes,
    )


def plan_captions(
    captioner: Captioner,
    videos: Sequence[Path],
    segmentation: Segmentation,
    settings: DecodingSettings,
    *,
    to: Sequence[str],
    where: str,
    done: int = 0,
    batch_size: int = 16,
    max_damage: float,
) -> Plan:
    """What `caption` would take for `videos`, measured on the beginnings of some. Writes nothing beside them.

    to: the sidecars of each. where: in words, where they go. done: videos that need no work.
    """
    spec, transform = captioner.require_fingerprint().sampling, captioner.encoder.preprocess
    stop = threading.Event()
    drawn = [videos[index] for index in np.random.default_rng(0).permutation(len(videos)).tolist()]
    drawn = drawn[:MOST_LENGTHS]

    def opened(path: Path) -> SegmentedVideo | None:
        try:
            return SegmentedVideo(path, segmentation, spec, transform, stop=stop, max_damage=max_damage)
        except VideoError:
            return None

    readable = [video for video in map(opened, drawn) if video is not None]
    length = sum(video.duration for video in readable) / max(1, len(drawn)) * len(videos)
    measured = _caption_some(captioner, readable, settings, batch_size, stop)
    share = length / measured.video_seconds if measured.video_seconds else 0.0
    unreadable = len(drawn) - len(readable)
    notes = [f"{unreadable} of the {len(drawn)} videos looked at cannot be read"] if unreadable else []
    return Plan(
        command="caption",
        videos=len(videos),
        done=done,
        captions=round(len(measured.captions) * share),
        disk=round(_bytes_of(measured.captions, to) * share),
        where=where,
        memory=peak_memory(),
        device_memory=peak_device_memory(captioner.device),
        seconds=measured.seconds * share,
        measured_on=f"{measured.video_seconds:,.0f} of {length:,.0f} s of video in {measured.seconds:.1f} s",
        notes=notes,
    )


@dataclass
class _Captioned:
    """What was captioned: seconds of video, seconds of work and captions."""

    video_seconds: float = 0.0
    seconds: float = 0.0
    captions: list[Prediction] = field(default_factory=list)


def _caption_some(
    captioner: Captioner, videos: Sequence[SegmentedVideo], settings: DecodingSettings, batch_size: int,
    stop: threading.Event,
) -> _Captioned:  # fmt: skip
    """Captions videos until the time for it is over; the last is left where it is then."""
    total = _Captioned()
    started = time.perf_counter()
    for video in videos:
        try:
            for batch in captioner.caption_batches(video, settings, batch_size=batch_size):
                total.captions += [replace(prediction, path=str(video.path)) for prediction in batch]
                total.video_seconds += (batch[-1].end or 0.0) - (batch[0].start or 0.0)
                if time.perf_counter() - started > measuring.BUDGET_SECONDS:
                    stop.set()
                    break
        except VideoError:
            continue
        if stop.is_set():
            break
    total.seconds = time.perf_counter() - started
    return total


def _bytes_of(captions: Sequence[Prediction], to: Sequence[str]) -> int:
    """Of the sidecars of these captions, which are in the order of their videos."""
    size = 0
    with tempfile.TemporaryDirectory(prefix="clipcap-video-") as folder:
        for _, of_video in groupby(captions, key=lambda prediction: prediction.path):
            results = Results(list(of_video))
            for name in to:
                FORMATS[name].write(Path(folder) / name, results)
                size += (Path(folder) / name).stat().st_size
    return size
