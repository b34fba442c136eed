"""What a retrieval run would take: counted from its data, and measured on a few steps that are thrown away."""

from __future__ import annotations

import time
from dataclasses import replace

from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.data import StoredFrames
from clipcap_video.retrieval.model import read_retrieval_config, retrieval_weights
from clipcap_video.retrieval.train import RetrievalRun, evaluate_retrieval, prepare
from clipcap_video.runs.plan import Plan
from clipcap_video.training.plan import VALIDATION_VIDEOS, plan_run, steps_done


def plan_retrieval(config: RetrievalTrainConfig) -> Plan:
    """Raises ClipcapError for whatever would stop the run at its beginning; writes nothing."""
    run, resuming = prepare(config)
    plan = plan_run(
        run,
        done=steps_done(read_retrieval_config(config.out_dir / "last")[1]) if resuming else 0,
        warmup=round(config.warmup_proportion * run.total_steps),
        weights=list(retrieval_weights(run.retrieval).values()),
        validation_seconds=_time_validation(run),
    )
    data = run.train_data
    plan.videos, plan.captions = len(data.video_ids), len(data.text)
    if isinstance(data.source, StoredFrames):
        frames = (data.source.store.shape(video_id).frames for video_id in data.video_ids)
        plan.frames = sum(min(count, config.max_frames) for count in frames)
    return plan


def _time_validation(run: RetrievalRun) -> float:
    """Seconds of one validation, from a part of the split."""
    data = run.eval_data
    if data is None or not run.config.eval_every:
        return 0.0
    count = min(VALIDATION_VIDEOS, len(data))
    ids, of, captions = data.video_ids[:count], data.video_of[:count], data.captions[:count]
    started = time.perf_counter()
    with run.autocast():
        evaluate_retrieval(run.retrieval, replace(data, video_ids=ids, video_of=of, captions=captions))
    seconds = (time.perf_counter() - started) / count * len(data)
    # The tight head reads each pair of text and video anew.
    return seconds if run.retrieval.separable else seconds * len(data) / count
