"""The inference run: which videos, with which checkpoint; captions, scores and a page written where they belong."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from clipcap_video import console
from clipcap_video.captioning.captioner import Captioner, CaptionFiles
from clipcap_video.captioning.config import BeamOptions, InferConfig, scores_beside
from clipcap_video.captioning.formats import FORMATS, Results
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.captioning.program_files import write_program_files
from clipcap_video.captioning.results import ResultFiles, decided_by, prompt_digests, require_support
from clipcap_video.captioning.second_opinion import SecondOpinion, second_opinion
from clipcap_video.captioning.shares import Outcome
from clipcap_video.captioning.stored import caption_trained_on, find_stored
from clipcap_video.captioning.subtitles import clock
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import match_features
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import read_lines
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError
from clipcap_video.features.logs import Log
from clipcap_video.files import spelled
from clipcap_video.metrics.captioning import CaptionScores, describe_scores, evaluate_captions, save_scores
from clipcap_video.models.checkpoint import CONSENSUS, WEIGHTS, find_checkpoint
from clipcap_video.models.legacy import LegacyChoices
from clipcap_video.runs.options import options_of
from clipcap_video.runs.places import refuse_outputs_among
from clipcap_video.runs.record import (
    digests,
    file_digest,
    inputs_of,
    record_file,
    store_facts,
    videos_digest,
    write_run,
)
from clipcap_video.video.damage import MAX_DAMAGE
from clipcap_video.video.files import find_all_videos

# The MSR-VTT ClipCap program's own default, for checkpoints that decode as it does.
CLIPCAP_ENTRY_LENGTH = 10
# Videos of the captioning datasets last 10 to 30 seconds; one caption cannot say what longer ones show.
LONG_SECONDS = 60


def infer(
    config: InferConfig, settings: DecodingSettings, engine: Callable[[Captioner], CaptionFiles] | None = None
) -> CaptionedVideos:
    """Captions what `config` names and writes the results; the page is left to the caller.

    engine: makes of the captioner what captions video files in its stead.
    """
    videos = None if config.videos is None else find_all_videos(config.videos)  # before a model is loaded
    refuse_outputs_among((videos or {}).values(), config)
    files_of(config)  # what it lacks is said before a model is loaded
    captioner, settings = prepare(config, settings)
    require_support(config.min_support, captioner, settings)
    if videos is not None:
        return _caption_videos(config, settings, captioner, videos, engine(captioner) if engine else None)
    return _caption_features(config, settings, captioner)


def prepare(config: InferConfig, settings: DecodingSettings) -> tuple[Captioner, DecodingSettings]:
    """The captioner that `config` names, and the settings with what the checkpoint decides."""
    checkpoint = None if config.model_dir is None else find_checkpoint(config.model_dir, config.prefix, config.epoch)
    captioner = Captioner.from_pretrained(
        checkpoint,
        lm=config.lm,
        device=config.device,
        precision=config.precision,
        legacy=legacy_choices(config),
    )
    for note in captioner.notes:
        print(f"{captioner.source.name}: {note}", file=sys.stderr)
    _check_architecture(config, captioner)
    settings = with_defaults_of(settings, captioner, config)
    if config.videos is not None and (config.encoder or config.encoder_weights):
        captioner.load_encoder(config.encoder, config.encoder_weights)
    remember(captioner, config.memory)
    return captioner, settings


def remember(captioner: Captioner, file: Path | None) -> None:
    """Puts the captions in a text file, one a line, in the place of those that the captioner kept."""
    if file is not None:
        captioner.remember(read_lines(file))


def legacy_choices(config: InferConfig) -> LegacyChoices:
    """What the options say of a checkpoint of the ClipCap programs."""
    return LegacyChoices(
        cross=config.mapping_type == "cross",
        normalize_prefix=config.normalize_prefix,
        frames=config.prefix_length_clip,
        prefix_length=config.prefix_length,
    )


def with_defaults_of(settings: DecodingSettings, captioner: Captioner, config: BeamOptions) -> DecodingSettings:
    """The settings with the defaults of the captioner's checkpoint where the user chose nothing."""
    suggested = captioner.default_settings()
    if config.rerank is None:
        settings = replace(settings, rerank=suggested.rerank)
    if config.entry_length is None and not captioner.model.whole_captions:
        settings = replace(settings, entry_length=CLIPCAP_ENTRY_LENGTH)
    if config.length_penalty is None:
        settings = replace(settings, length_penalty=suggested.length_penalty)
    if captioner.reorders(settings) and settings.mode == "greedy":
        # A single caption leaves nothing to choose from.
        settings = replace(settings, use_beam_search=True)
    if config.beam_size is None and captioner.ranks(settings):
        settings = replace(settings, beam_size=max(suggested.beam_size, settings.num_return))
    captioner.text_side(settings)  # what it lacks is said before any work
    return settings


def _check_architecture(config: InferConfig, captioner: Captioner) -> None:
    """Options that repeat the checkpoint's architecture must agree with it."""
    model = captioner.model
    given: dict[str, tuple[Any, Any]] = {"is_rn": (config.is_rn or None, model.feature_dim == 640)}
    if config.prefix_length_clip is not None and config.prefix_length_clip < model.max_frames:
        # More than the videos had is what it was trained on: all of their frames.
        given["prefix_length_clip"] = (config.prefix_length_clip, model.max_frames)
    architecture = model.architecture()
    for name in ("mapping_type", "prefix_length", "num_layers", "normalize_prefix"):
        actual = architecture.get(name, f"no such option, for it is of --model {model.kind}")
        given[name] = (getattr(config, name) or None, actual)
    for name, (wanted, actual) in given.items():
        if wanted is not None and actual is not None and wanted != actual:
            raise ClipcapError(
                f"--{name} {wanted} contradicts the checkpoint {captioner.source}, which has {actual}; leave it out"
            )


def _caption_videos(
    config: InferConfig,
    settings: DecodingSettings,
    captioner: Captioner,
    videos: dict[str, Path],
    caption_files: CaptionFiles | None,
) -> CaptionedVideos:
    records = read_annotations(config.caption, config.paragraphs) if config.caption else []
    sources = {"videos": len(videos), "video_files": videos_digest(videos)}
    record = partial(_record, config, settings, captioner, sources, caption=config.caption)
    return caption_videos(
        captioner, videos, settings, files=files_of(config, record), evidence=config.report is not None,
        records=records, batch_size=config.bs, max_damage=config.max_damage, caption_files=caption_files,
        second=second_opinion(config, captioner, settings),
    )  # fmt: skip


def files_of(config: InferConfig, record: Callable[[], None] | None = None) -> ResultFiles:
    """Where the captions go that `config` asks for."""
    sidecars = [name for name in config.formats if FORMATS[name].is_sidecar]
    return ResultFiles(
        config.place,
        config.tables,
        sidecars,
        folder=config.sidecar_dir,
        wording=config.wording,
        overwrite=config.overwrite,
        record=record,
        shard=config.share,
    )


def _record(
    config: InferConfig, settings: DecodingSettings, captioner: Captioner, sources: dict[str, Any], **chosen: Any
) -> None:
    """Writes the run's record beside its captions. chosen: what options that were not given came to be."""
    out = config.place
    options = options_of(replace(config, out=out, **chosen))
    options |= {name: value for name, value in asdict(settings).items() if name in options}
    weights = captioner.source if captioner.source.is_file() else captioner.source / WEIGHTS
    ranker = {"consensus": file_digest(captioner.source / CONSENSUS)} if captioner.ranks(settings) else {}
    side = captioner.text_side(settings)
    ranker |= ({} if side is None else {"rerank": side.key}) | prompt_digests(captioner)
    sources = {
        "checkpoint": {"path": str(captioner.source.resolve()), "weights": file_digest(weights), **ranker},
        **sources,
        "annotations": digests(chosen.get("caption") or []),
    }
    precision = {"precision": captioner.precision, "encoder_precision": captioner.encoder_precision}
    write_run(record_file(out), "infer", options, sources, inputs_of(config), device=str(captioner.device), **precision)


def caption_videos(
    captioner: Captioner,
    videos: dict[str, Path],
    settings: DecodingSettings,
    *,
    files: ResultFiles,
    evidence: bool = False,
    records: Sequence[VideoRecord] = (),
    batch_size: int = 64,
    max_damage: float = MAX_DAMAGE,
    caption_files: CaptionFiles | None = None,
    second: SecondOpinion | None = None,
) -> CaptionedVideos:
    """Captions video files (id -> path): printed, and written to `files`. Those not read are named on stderr.

    evidence: find out how much each frame mattered. records: annotations; videos that they know are scored. second:
    another model to ask. caption_files: captions them in the captioner's stead.
    """
    decided = decided_by(captioner, settings) | {"evidence": str(evidence)} | (second.decides() if second else {})
    share = files.shard.of(videos) if files.shard else videos
    with files.log(decided) as log:
        before = {one.video: one for one in log.predictions}
        same = [name for name, path in share.items() if name in before and before[name].path == str(path)]
        done = {name: before[name] for name in same}
        for one in done.values():
            files.add(one)
        missing = files.missing(share, done)
        if len(missing) < len(share):
            console.say(f"{len(share) - len(missing):,} of {len(share):,} videos done before")

        def keep(predictions: list[Prediction]) -> list[Prediction]:
            # As the log has them, so that a run that was stopped leaves the same in the end.
            kept = [log.append(one) for one in (second(predictions) if second else predictions)]
            for one in kept:
                files.add(one)
                _tell(one)
            return kept

        made, summary = (caption_files or captioner.caption_files)(
            missing, settings, batch_size=batch_size, evidence=evidence, max_damage=max_damage, keep=keep
        )
        log.finish()
    if second:
        console.say(second.describe())
    for failure in summary.failures:
        print(f"could not read {failure.video}: {failure.reason}", file=sys.stderr)
    for video_id, warning in summary.warnings.items():
        print(f"warning: {video_id}: {warning}", file=sys.stderr)
    known = done | {one.video: one for one in made}
    of_share = Outcome(
        [known[name] for name in share if name in known], summary.failures, list(summary.warnings.values())
    )
    whole, cider = files.join(of_share, missing, videos, decided), None
    if whole is not None:
        cider = _leave(files, whole, Results((), (), str(captioner.source), None, asdict(settings)), records)
    predictions = [] if whole is None else list(whole.predictions)
    return CaptionedVideos(len(summary.failures), predictions, captioner.describe(), records, cider)


def _leave(
    files: ResultFiles, made: Outcome, header: Results, records: Sequence[VideoRecord]
) -> dict[str, float] | None:
    """Writes the tables of a run, its warnings and scores. Returns the CIDEr of the videos that are scored."""
    predictions = list(made.predictions)
    if predictions or "json" not in files.tables:
        failures = [(failure.video, failure.path, failure.reason) for failure in made.failures]
        for name, table in files.finish(replace(header, predictions=predictions, failures=failures)).items():
            print(f"{'captions' if name == 'json' else name}: {spelled(table)}")
    if not predictions or not files.tables:
        return None
    _keep_warnings(files.place, made.warnings)
    return _score_known(files.place, predictions, records)


def _tell(prediction: Prediction) -> None:
    print(f"{prediction.video}: {prediction.captions[0]}")
    if prediction.timestamps and prediction.timestamps[-1] > LONG_SECONDS:
        console.say(
            f"{prediction.video} lasts {clock(prediction.timestamps[-1])} and has one caption here; "
            f"clipcap-video caption {shlex.quote(str(prediction.path))} writes one for each shot"
        )


def _keep_warnings(out: Path, warnings: Iterable[Any]) -> None:
    # Not warnings.jsonl: that is what an extraction into the same folder keeps.
    file = out.with_name(f"{out.stem}.warnings.jsonl")
    file.unlink(missing_ok=True)  # of the run before
    with Log(file) as log:
        for warned in warnings:
            log.add(warned)


def _score_known(
    out: Path, predictions: Sequence[Prediction], records: Sequence[VideoRecord]
) -> dict[str, float] | None:
    """CIDEr of the videos that annotations know, whose scores are printed and written; None without any."""
    named = [prediction.video for prediction in predictions]
    matched = match_features([record for record in records if record.captions], named)
    if not matched.records:
        return None
    known = {record.video_id for record in matched.records}
    inside = [prediction for prediction in predictions if prediction.video in known]
    return _score(out, inside, matched.records, None).per_video


@dataclass(frozen=True)
class CaptionedVideos:
    """What a run made. failed: videos that could not be read. predictions: written by now. details: of the captioner,
    for a page. records: annotations of the videos. cider: of each scored video, None where none is."""

    failed: int
    predictions: list[Prediction]
    details: dict[str, str]
    records: Sequence[VideoRecord]
    cider: dict[str, float] | None = None


def _caption_features(config: InferConfig, settings: DecodingSettings, captioner: Captioner) -> CaptionedVideos:
    stored = find_stored(config, captioner)
    records, split = stored.records, stored.split
    started = time.perf_counter()
    damaged: dict[str, str] = {}
    if stored.from_files:
        # The features of its data are those of the encoder before it was trained along.
        predictions = caption_trained_on(config, settings, captioner, stored.ids)
    else:
        predictions = captioner.caption_store(stored.store, stored.ids, settings, batch_size=config.bs, damaged=damaged)
    for video_id, reason in damaged.items():
        print(f"could not read {video_id}: {reason}", file=sys.stderr)
    if not predictions:
        raise ClipcapError(f"none of the features in {stored.store.path} can be read; extract them again")
    seconds = time.perf_counter() - started
    spans = {record.video_id: record.span for record in records if record.span is not None}
    predictions = [
        replace(one, start=spans[one.video].start, end=spans[one.video].end) if one.video in spans else one
        for one in predictions
    ]
    out = config.place
    sources = {"features": store_facts(stored.store.fingerprint, stored.store.path, stored.ids)}
    chosen = {"data": stored.store.path, "caption": stored.annotations or None, "split": split}
    # Before the captions: of a run that is killed in between, they are known as its own.
    _record(config, settings, captioner, sources, **chosen)
    files = files_of(config)
    for prediction in predictions:
        files.add(prediction)
    failures = [(video_id, str(stored.store.path), reason) for video_id, reason in damaged.items()]
    files.finish(Results(predictions, failures, str(captioner.source), split, asdict(settings)))
    print(f"{len(predictions)} captions in {seconds:.1f} s to {spelled(out)}, e.g. {predictions[0].captions[0].text!r}")
    scored = any(record.captions for record in records)
    cider = _score(out, predictions, records, split).per_video if scored else None
    if config.model_dir is not None:
        captions = {prediction.video: prediction.captions[0].text for prediction in predictions}
        references = {record.video_id: record.captions for record in records}
        program = write_program_files(out.parent, captions, references, settings.use_beam_search)
        print(f"as the MSR-VTT ClipCap program writes them: {', '.join(map(str, program))}")
    return CaptionedVideos(len(damaged), predictions, captioner.describe(), records, cider)


def _score(
    out: Path, predictions: list[Prediction], records: Sequence[VideoRecord], split: str | None
) -> CaptionScores:
    """Official scores against the records' captions, printed and written beside the predictions."""
    captions = {prediction.video: prediction.captions[0].text for prediction in predictions}
    scores = evaluate_captions(captions, [record for record in records if record.captions], split, allow_missing=True)
    print(describe_scores(scores))
    file = scores_beside(out)
    save_scores(scores, file, split)
    print(f"scores: {spelled(file)}")
    return scores
