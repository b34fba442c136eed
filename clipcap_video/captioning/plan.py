"""What `infer --dry_run` says: captions of some of the videos, timed and measured, and thrown away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from clipcap_video.captioning.config import InferConfig
from clipcap_video.captioning.run import prepare
from clipcap_video.captioning.stored import caption_trained_on, find_stored
from clipcap_video.decoding import DecodingSettings
from clipcap_video.devices import peak_device_memory
from clipcap_video.runs.plan import Plan, measure, peak_memory
from clipcap_video.video.files import find_all_videos


def plan_inference(config: InferConfig, settings: DecodingSettings) -> Plan:
    """What `infer` would take, measured on some of the videos. Writes nothing; scores and page are not counted."""
    captioner, settings = prepare(config, settings)
    files = {} if config.videos is None else find_all_videos(config.videos)
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
