"""Stored features to caption, and which of them: what the options leave open, the checkpoint and its run tell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.config import InferConfig
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import match_features
from clipcap_video.datasets.records import VideoRecord, select, splits
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.layouts import open_features
from clipcap_video.runs.defaults import default_annotations, default_features
from clipcap_video.video.files import find_all_videos


@dataclass(frozen=True)
class StoredVideos:
    """Stored features that are to be captioned. annotations: the files that tell which, and hold the references.

    from_files: the model has an encoder of its own, so that the videos' files are read instead.
    """

    store: FeatureStore
    ids: list[str]
    records: list[VideoRecord]
    split: str | None
    annotations: list[Path]
    from_files: bool


def find_stored(config: InferConfig, captioner: Captioner) -> StoredVideos:
    """The features to caption and their annotations, where `config` does not say from what the checkpoint knows."""
    trained = captioner.info.training
    data = config.data or (Path(trained["data"]) if "data" in trained else default_features())
    if config.data is None and "data" not in trained and not data.exists():
        raise ClipcapError("nothing to caption; give video files with --videos or features with --features")
    store = open_features(data)
    from_files = config.data is None and captioner.model.encoder_weights_before is not None
    annotations = config.caption
    if annotations is None and (config.data is None or not trained):
        # Of a checkpoint of the ClipCap programs it is not known what it was trained on.
        named = map(Path, trained.get("caption", [])) if trained else [default_annotations()]
        annotations = [path for path in named if path.exists()]
    paragraphs = config.paragraphs or bool(trained.get("paragraphs"))
    records, split = _choose(annotations or [], paragraphs, config.split, store)
    ids = [record.video_id for record in records] if records else store.ids()
    return StoredVideos(store, ids, records, split, annotations or [], from_files)


def caption_trained_on(
    config: InferConfig, settings: DecodingSettings, captioner: Captioner, ids: Sequence[str]
) -> list[Prediction]:
    """Captions of the videos `ids` of the model's own data, from their files."""
    named = captioner.info.training.get("videos")
    if not named:
        raise ClipcapError(f"{captioner.source} has its own encoder, so it reads videos; give them with --videos")
    videos = find_all_videos(map(Path, named))
    absent = [video_id for video_id in ids if video_id not in videos]
    if absent:
        print(f"{len(absent)} of {len(ids)} videos, e.g. {absent[0]}, are not in {named[0]}: left out", file=sys.stderr)
    present = {video_id: videos[video_id] for video_id in ids if video_id in videos}
    predictions, summary = captioner.caption_files(present, settings, batch_size=config.bs)
    for failure in summary.failures:
        print(f"could not read {failure.video}: {failure.reason}", file=sys.stderr)
    if not predictions:
        raise ClipcapError(f"no video of {named[0]} could be read; give others with --videos")
    return predictions


def _choose(
    annotations: Sequence[Path], paragraphs: bool, split: str | None, store: FeatureStore
) -> tuple[list[VideoRecord], str | None]:
    """The records to caption, of those with features, and the name of their split."""
    if not annotations:
        if split is not None:
            raise ClipcapError(f"--split {split} needs annotations that define it; give them with --annotations")
        return [], None
    records = read_annotations(annotations, paragraphs)
    if split is None:
        present = splits(records)
        split = next((name for name in ("test", "validate") if name in present), None)
    wanted = select(records, split) if split is not None else records
    matched = match_features(wanted, store.ids())
    if not matched.records:
        raise ClipcapError(
            f"no video of split {split!r} has features in {store.path}; extract them, or choose another --split"
        )
    without = len(wanted) - len(matched.records)
    if without:
        print(
            f"{without} of {len(wanted)} videos of split {split!r} have no features: left out",
            file=sys.stderr,
        )
    return matched.records, split
