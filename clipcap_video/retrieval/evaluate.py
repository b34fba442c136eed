"""Scores of a retrieval checkpoint on a split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipcap_video.datasets.matching import annotated, with_captions
from clipcap_video.datasets.records import select
from clipcap_video.devices import pick_device
from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import check_fingerprints
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.retrieval import RetrievalScores
from clipcap_video.retrieval.config import RetrievalEvaluationConfig
from clipcap_video.retrieval.data import RetrievalData
from clipcap_video.retrieval.model import load_retrieval
from clipcap_video.retrieval.train import encode_texts, evaluate_retrieval, frame_source
from clipcap_video.video.files import find_all_videos


def evaluate_checkpoint(config: RetrievalEvaluationConfig) -> RetrievalScores:
    """Scores of config.model_dir.

    What is not given is what the model was trained on. Raises ClipcapError when a part is missing or does not fit.
    """
    model, info = load_retrieval(config.model_dir)
    model = model.to(pick_device(config.device))
    training = info.training
    caption = config.caption or [Path(path) for path in training.get("caption") or []]
    if not caption:
        raise ClipcapError(f"{config.model_dir} does not say what it was trained on; give --annotations")
    store, videos = None, {}
    if model.clip is None or config.data is not None:
        if config.videos:
            raise ClipcapError(f"{config.model_dir} was trained on stored features; give --features, not --videos")
        data = config.data or training.get("data")
        if data is None:
            raise ClipcapError(f"{config.model_dir} does not say what it was trained on; give --features")
        store = open_features(data)
        check_fingerprints(info.fingerprint, store.fingerprint, str(data))
        ids, where = store.ids(), str(data)
    else:
        sources = config.videos or [Path(path) for path in training.get("videos") or []]
        if not sources:
            raise ClipcapError(f"{config.model_dir} does not say what it was trained on; give --videos")
        videos = find_all_videos(sources)
        ids, where = list(videos), ", ".join(map(str, sources))
    records = with_captions(select(annotated(caption, ids, where, training.get("paragraphs", False)), config.split))
    if not records:
        raise ClipcapError(f"split {config.split!r} has no captions; choose another --split")
    source = frame_source(
        model,
        model.config.max_frames,
        str(training.get("slice_framepos", "2")),
        store,
        videos,
        feature_framerate=training.get("feature_framerate", 1.0),
        workers=config.workers,
        max_seconds=training.get("max_seconds", 0.0),
    )
    data = RetrievalData.of(records, source, lambda texts: encode_texts(model, texts), expand=False)
    scores = replace(evaluate_retrieval(model, data, config.first_caption or None), split=config.split)
    return scores.with_intervals(config.bootstrap, config.seed) if config.bootstrap else scores
