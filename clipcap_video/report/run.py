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
from clipcap_video.report.entries import Pictures, report_predictions
from clipcap_video.report.verdicts import JUDGEMENTS, read_verdicts
from clipcap_video.video.files import find_all_videos


def make_page(
    predictions: Path,
    out: Path,
    *,
    videos: Sequence[Path] | None = None,
    data: Path | None = None,
    caption: Sequence[Path] | None = None,
    model_dir: Path | None = None,
    lm: str | None = None,
    device: str = "auto",
    judged: Path | None = None,
    sample: int = 0,
    seed: int = 0,
    frames: int | None = None,
    frame_size: int | None = None,
) -> list[str]:
    """Writes the page of a predictions.json; returns a line for each thing that it could not show.

    predictions: or a STEM.captions.jsonl, the segments of a long video. These have no evidence, references or CIDEr.
    videos: where the video files are, if not where the predictions say. data: the features that the captions were
    made from, for the evidence. caption: annotations, for references and CIDEr. model_dir, lm: the captioner, if it is
    not where the predictions say. judged: verdicts of people, see `read_verdicts`. sample: so many videos drawn at
    random; 0 is all. frames, frame_size: pictures of a video and the longer side of each in pixels.
    Raises ClipcapError when an input is missing or does not fit; nothing is written then.
    """
    is_log = predictions.name.endswith(LOG_SUFFIX)
    if is_log and (data is not None or caption):
        raise ClipcapError(f"{predictions} has the segments of one video; --data and --caption are about whole videos")
    file = load_log(predictions) if is_log else PredictionFile.load(predictions)
    found = file.predictions
    verdicts = {} if judged is None else read_verdicts(judged)
    records = read_annotations(caption) if caption else []
    notes: list[str] = []
    if videos:
        found = _with_paths(found, find_all_videos(videos), notes)
    scores = _scores(found, records, file.split, notes) if records else None
    details = {"model": file.model, "split": file.split} if file.split else {"model": file.model}
    if sample:
        found, total = drawn(found, sample, seed), len(found)
        details["drawn"] = f"{len(found)} of {total:,}, seed {seed}"
    pictures = Pictures.for_page_of(len(found), frames, frame_size)
    if data is not None:
        store = open_features(data)
        captioner = Captioner.from_pretrained(_model(file, model_dir), lm=lm, device=device)
        captioner.check_features(store)
        details |= captioner.describe()
        found = explain(captioner.model, store, found, captioner.device, captioner.precision)
        without = sum(1 for prediction in found if prediction.video not in store)
        if without:
            notes.append(f"{without} of {len(found)} videos have no features in {data}: no evidence for them")
    elif not is_log and not any(prediction.evidence for prediction in found):
        notes.append("no evidence: give the features with --data to see how much each frame mattered")
    unseen = sum(1 for prediction in found if prediction.path is None or not Path(prediction.path).is_file())
    if unseen:
        notes.append(
            f"{unseen} of {len(found)} videos were not found: no frames of them; give their place with --videos"
        )
    if verdicts:
        counts = Counter(verdicts[one.video].judgement for one in found if one.video in verdicts)
        if not counts:
            raise ClipcapError(f"none of the videos of {judged} is on this page; give the predictions they are about")
        details["looked at"] = ", ".join(f"{counts[judgement]} {judgement}" for judgement in JUDGEMENTS)
    if scores:
        details["CIDEr"] = f"{100 * sum(scores.values()) / len(scores):.2f} over {len(scores):,} videos"
    report_predictions(found, out, details, records, cider=scores, verdicts=verdicts, pictures=pictures)
    return notes


def drawn(predictions: Sequence[Prediction], count: int, seed: int) -> list[Prediction]:
    """The predictions of `count` videos drawn at random, in their order: a function of the seed and of their names."""
    if count < 0:
        raise ClipcapError(f"--sample must be 0 or more, not {count}")
    names = sorted({prediction.video for prediction in predictions})
    kept = set(random.Random(seed).sample(names, min(count, len(names))))
    return [prediction for prediction in predictions if prediction.video in kept]


def _model(file: PredictionFile, model_dir: Path | None) -> Path:
    if model_dir is not None:
        return model_dir
    if not file.model or not Path(file.model).exists():
        raise ClipcapError(
            f"the model that wrote these captions is not at {file.model or '(no place is named)'}; give it with "
            "--model_dir, or leave out --data and have no evidence"
        )
    return Path(file.model)


def _with_paths(found: Sequence[Prediction], videos: dict[str, Path], notes: list[str]) -> list[Prediction]:
    paths = {video: str(path) for video, path in videos.items()}
    if not any(prediction.video in paths for prediction in found):
        raise ClipcapError(
            f"none of the {len(videos)} videos given is among the predictions: there is {next(iter(videos))!r}, "
            f"and captions of {found[0].video!r}"
            if found
            else "there are no predictions to show"
        )
    return [replace(prediction, path=paths.get(prediction.video, prediction.path)) for prediction in found]


def _scores(
    found: Sequence[Prediction], records: Sequence[VideoRecord], split: str | None, notes: list[str]
) -> dict[str, float] | None:
    """CIDEr of each video's best caption; document frequencies are those of the videos that are shown."""
    known = {record.video_id: record.captions for record in (select(records, split) if split else records)}
    captions = {prediction.video: prediction.text for prediction in found if known.get(prediction.video)}
    if not captions:
        notes.append("no video has references in the annotations: no CIDEr")
        return None
    return cider(captions, known)[1]
