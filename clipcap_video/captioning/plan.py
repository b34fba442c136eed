"""What `infer --dry_run` says: captions of some of the videos, timed and measured, and thrown away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.config import InferConfig
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.captioning.run import caption_trained_on, find_stored, place_of_predictions, prepare
from clipcap_video.decoding import DecodingSettings
from clipcap_video.devices import peak_device_memory
from clipcap_video.runs.plan import Plan, measure, peak_memory
from clipcap_video.video.files import find_all_videos


def plan_inference(config: InferConfig, settings: DecodingSettings) -> Plan:
    """What `infer` would take, measured on some of the videos. Writes nothing; scores and page are not counted."""
    captioner, settings = prepare(config, settings)
    if config.videos is not None:
        return _plan_videos(config, settings, captioner)
    stored = find_stored(config, captioner)
    written = count = 0

    def caption_some(part: Sequence[str]) -> None:
        nonlocal written, count
        if stored.from_files:
            predictions = caption_trained_on(config, settings, captioner, part)
        else:
            predictions = captioner.caption_store(stored.store, part, settings, batch_size=config.bs)
        written += _size(predictions)
        count += len(part)

    rate = measure(stored.ids, caption_some, first=config.bs, probe=config.bs)
    most = captioner.model.max_frames
    return Plan(
        command="infer",
        videos=len(stored.ids),
        frames=sum(min(stored.store.shape(video_id).frames, most) for video_id in stored.ids),
        disk=written * len(stored.ids) // max(1, count),
        where=str(place_of_predictions(config)),
        memory=peak_memory(),
        device_memory=peak_device_memory(captioner.device),
        seconds=rate.of(len(stored.ids)),
        measured_on=f"{rate.items:,} videos in {rate.seconds:.1f} s",
        notes=["scores against references come on top"] if any(one.captions for one in stored.records) else [],
    )


def _plan_videos(config: InferConfig, settings: DecodingSettings, captioner: Captioner) -> Plan:
    assert config.videos is not None
    videos = find_all_videos(config.videos)
    written = count = frames = failed = 0
    captioner.encoder  # noqa: B018  (loaded before the clock runs)

    def caption_some(part: Sequence[str]) -> None:
        nonlocal written, count, frames, failed
        chosen = {video_id: videos[video_id] for video_id in part}
        predictions, summary = captioner.caption_files(chosen, settings, batch_size=config.bs, progress=False)
        written += _size(predictions)
        count += len(part)
        frames += summary.frames
        failed += summary.failed

    rate = measure(list(videos), caption_some, first=16, probe=16)
    notes = [f"{failed} of the {count} videos looked at cannot be read"] if failed else []
    if config.report is not None:
        notes.append("the page comes on top: it reads the frames again")
    return Plan(
        command="infer",
        videos=len(videos),
        frames=round(frames / count * len(videos)),
        disk=round(written / count * len(videos)),
        where=str(place_of_predictions(config)),
        memory=peak_memory(),
        device_memory=peak_device_memory(captioner.device),
        seconds=rate.of(len(videos)),
        measured_on=f"{rate.items:,} videos in {rate.seconds:.1f} s",
        notes=notes,
    )


def _size(predictions: list[Prediction]) -> int:
    """Bytes that predictions.json needs for them."""
    return sum(len(json.dumps(asdict(prediction), indent=1)) for prediction in predictions)
