"""A page of captions that were written before, with frames, references and evidence where they are known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.evidence import explain
from clipcap_video.captioning.log import LOG_SUFFIX, load_log
from clipcap_video.captioning.predictions import Prediction, PredictionFile
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord, select
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.captioning import cider
from clipcap_video.report.config import ReportConfig
from clipcap_video.report.entries import Pictures, report_predictions
from clipcap_video.report.verdicts import JUDGEMENTS, read_verdicts
from clipcap_video.runs.places import refuse_outputs_among
from clipcap_video.video.files import find_all_videos


def make_page(config: ReportConfig) -> list[str]:
    """Writes the page of a predictions.json; returns a line for each thing that it could not show.

    The segments in a STEM.captions.jsonl, of a long video, have no evidence, references or CIDEr.
    Raises ClipcapError when an input is missing or does not fit; nothing is written then.
    """
    is_log = config.predictions.name.endswith(LOG_SUFFIX)
    if is_log and (config.data is not None or config.caption):
        raise ClipcapError(
            f"{config.predictions} has the segments of one video; --features and --annotations are about whole videos"
        )
    file = load_log(config.predictions) if is_log else PredictionFile.load(config.predictions)
    predictions = file.predictions
    verdicts = {} if config.judged is None else read_verdicts(config.judged)
    records = read_annotations(config.caption) if config.caption else []
    notes: list[str] = []
    if config.videos:
        predictions = _with_paths(predictions, find_all_videos(config.videos))
    refuse_outputs_among([Path(one.path) for one in predictions if one.path], config)
    scores = _scores(predictions, records, file.split, notes) if records else None
    details = {"model": file.model, "split": file.split} if file.split else {"model": file.model}
    if config.sample:
        predictions, total = drawn(predictions, config.sample, config.seed), len(predictions)
        details["drawn"] = f"{len(predictions)} of {total:,}, seed {config.seed}"
    pictures = Pictures.for_page_of(len(predictions), config.frames, config.frame_size)
    if config.data is not None:
        predictions, described = _explained(file, predictions, config.data, config, notes)
        details |= described
    elif not is_log and not any(prediction.evidence for prediction in predictions):
        notes.append("no evidence: give the features with --features to see how much each frame mattered")
    unseen = sum(1 for prediction in predictions if prediction.path is None or not Path(prediction.path).is_file())
    if unseen:
        notes.append(
            f"{unseen} of {len(predictions)} videos were not found: no frames of them; give their place with --videos"
        )
    if verdicts:
        counts = Counter(verdicts[one.video].judgement for one in predictions if one.video in verdicts)
        if not counts:
            raise ClipcapError(
                f"none of the videos of {config.judged} is on this page; give the predictions they are about"
            )
        details["looked at"] = ", ".join(f"{counts[judgement]} {judgement}" for judgement in JUDGEMENTS)
    if scores:
        details["CIDEr"] = f"{100 * sum(scores.values()) / len(scores):.2f} over {len(scores):,} videos"
    report_predictions(predictions, config.out, details, records, cider=scores, verdicts=verdicts, pictures=pictures)
    return notes


def _explained(
    file: PredictionFile, predictions: Sequence[Prediction], data: Path, config: ReportConfig, notes: list[str]
) -> tuple[list[Prediction], dict[str, str]]:
    """The predictions with their evidence, and what their captioner says of itself."""
    if config.model_dir is None and not (file.model and Path(file.model).exists()):
        raise ClipcapError(
            f"the model that wrote these captions is not at {file.model or '(no place is named)'}; give it with "
            "--model_dir, or leave out --features and have no evidence"
        )
    store = open_features(data)
    captioner = Captioner.from_pretrained(config.model_dir or Path(file.model), lm=config.lm, device=config.device)
    captioner.check_features(store)
    without = sum(1 for prediction in predictions if prediction.video not in store)
    if without:
        notes.append(f"{without} of {len(predictions)} videos have no features in {data}: no evidence for them")
    return explain(captioner.model, store, predictions, captioner.device, captioner.precision), captioner.describe()


def drawn(predictions: Sequence[Prediction], count: int, seed: int) -> list[Prediction]:
    """The predictions of `count` videos drawn at random, in their order: a function of the seed and of their names."""
    if count < 0:
        raise ClipcapError(f"--sample must be 0 or more, not {count}")
    names = sorted({prediction.video for prediction in predictions})
    kept = set(random.Random(seed).sample(names, min(count, len(names))))
    return [prediction for prediction in predictions if prediction.video in kept]


def _with_paths(predictions: Sequence[Prediction], videos: dict[str, Path]) -> list[Prediction]:
    paths = {video: str(path) for video, path in videos.items()}
    if not any(prediction.video in paths for prediction in predictions):
        raise ClipcapError(
            f"none of the {len(videos)} videos given is among the predictions: there is {next(iter(videos))!r}, "
            f"and captions of {predictions[0].video!r}"
            if predictions
            else "there are no predictions to show"
        )
    return [replace(prediction, path=paths.get(prediction.video, prediction.path)) for prediction in predictions]


def _scores(
    predictions: Sequence[Prediction], records: Sequence[VideoRecord], split: str | None, notes: list[str]
) -> dict[str, float] | None:
    """CIDEr of each video's best caption; document frequencies are those of the videos that are shown."""
    known = {record.video_id: record.captions for record in (select(records, split) if split else records)}
    captions = {prediction.video: prediction.text for prediction in predictions if known.get(prediction.video)}
    if not captions:
        notes.append("no video has references in the annotations: no CIDEr")
        return None
    return cider(captions, known)[1]
