"""A retrieval run: from a RetrievalTrainConfig to checkpoints in its out_dir; and the scores of a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipcap_video import console
from clipcap_video.datasets.matching import annotated, training_and_validation
from clipcap_video.devices import make_accelerator, pick_device, pick_precision
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.retrieval import RetrievalScores, score_matrix, score_vectors
from clipcap_video.models.checkpoint import CheckpointInfo
from clipcap_video.optimisation import cosine_factor, parameter_groups
from clipcap_video.retrieval.building import build_retrieval
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.data import SLICES, DecodedFrames, FrameSource, RetrievalData, StoredFrames, stack_frames
from clipcap_video.retrieval.model import (
    RetrievalBatch,
    RetrievalModel,
    load_retrieval_weights,
    read_retrieval_config,
    save_retrieval,
)
from clipcap_video.runs.record import digests, store_facts
from clipcap_video.training.data import EpochOrder
from clipcap_video.training.log import check_tracker
from clipcap_video.training.loop import Run, TrainingSummary, Validation
from clipcap_video.training.setup import has_run
from clipcap_video.training.texts import embed_once
from clipcap_video.video.files import find_all_videos
from clipcap_video.video.sampling import SamplingSpec

VIDEOS_AT_ONCE = 32


def train_retrieval(config: RetrievalTrainConfig) -> TrainingSummary:
    """Trains a retrieval model and leaves the checkpoints `best`, `last` and `PREFIX-EPOCH` in config.out_dir.

    Stops and resumes as `training.run.train` does. The best is that of the highest R@1 + R@5 + R@10 from text to
    video on the validation split. Raises ClipcapError on bad input, before anything is written.
    """
    run, resuming = prepare(config)
    return run.go(resuming)


def prepare(config: RetrievalTrainConfig) -> tuple[RetrievalRun, bool]:
    """A run before its first step, and whether it resumes an earlier one. Writes nothing."""
    resuming = has_run(config, read_retrieval_config)
    check_tracker(config.track)
    assert config.caption is not None
    device = pick_device(config.device)
    store = None if config.data is None else open_features(config.data)
    videos = {} if config.videos is None else find_all_videos(config.videos)
    where = str(config.data) if store is not None else ", ".join(map(str, config.videos or []))
    console.say(f"reading {where} and the captions")
    ids = store.ids() if store is not None else list(videos)
    records = annotated(config.caption, ids, where, config.paragraphs)
    training, validation = training_and_validation(records, config.train_split, config.eval_split)
    if len(training) < 2:
        raise ClipcapError(f"split {config.train_split!r} has fewer than two videos with captions; nothing to contrast")
    if not validation and config.eval_every:
        print(f"no captions in split {config.eval_split!r}: the best checkpoint is the last", file=sys.stderr)
    console.say(f"{len(training):,} videos; loading the models")
    precision = pick_precision(device, config.precision)
    accelerator = make_accelerator(device, precision, config.track, config.out_dir / "tracking")
    torch.manual_seed(config.seed)
    model = build_retrieval(config, store, training, device)
    source = frame_source(
        model, config.max_frames, config.slice_framepos, store, videos, config.feature_framerate, config.workers,
        config.max_seconds,
    )  # fmt: skip

    def encode(texts: list[str]) -> Tensor:
        return encode_texts(model, texts)

    train_data = RetrievalData.of(training, source, encode, config.expand_msrvtt_sentences)
    if len(train_data) < config.bs:
        raise ClipcapError(f"{len(train_data)} pairs of text and video fill no batch of {config.bs}; lower --bs")
    eval_data = RetrievalData.of(validation, source, encode, expand=False) if validation else None
    fingerprint = None if store is None else store.fingerprint
    return RetrievalRun(config, accelerator, model, train_data, eval_data, fingerprint), resuming


def frame_source(
    model: RetrievalModel,
    max_frames: int,
    slice_framepos: str,
    store: FeatureStore | None,
    videos: dict[str, Path],
    feature_framerate: float,
    workers: int,
    max_seconds: float = 0.0,
) -> FrameSource:
    """Stored features, or frames of the videos at feature_framerate for the CLIP of the model.

    max_seconds: what the videos have after it is left out; 0 takes all.
    """
    if store is not None:
        return StoredFrames(store, max_frames, slice_framepos)
    assert model.clip is not None
    spec = SamplingSpec(SLICES[slice_framepos], max_frames, feature_framerate)
    return DecodedFrames(videos, spec, model.clip.pixels.resize_and_crop, workers, max_seconds)


def encode_texts(model: RetrievalModel, texts: list[str]) -> Tensor:
    """What a batch has in `text`: tokens for a CLIP inside, else embeddings."""
    if model.clip is not None:
        return model.clip.tokenize(texts, model.config.max_words)
    return embed_once(model.text_encoder, texts)


class RetrievalRun(Run):
    """The run of a retrieval model."""

    command = "train-retrieval"

    def __init__(
        self,
        config: RetrievalTrainConfig,
        accelerator: Any,
        model: RetrievalModel,
        train_data: RetrievalData,
        eval_data: RetrievalData | None,
        fingerprint: Fingerprint | None,
    ) -> None:
        self.retrieval, self.fingerprint = model, fingerprint
        self.train_data, self.eval_data = train_data, eval_data
        self.has_validation = eval_data is not None
        inner = set() if model.clip is None else set(model.clip.parameters())
        outer = [parameter for parameter in model.parameters() if parameter not in inner]
        parts = [(outer, config.lr), (sorted_parameters(model, inner), config.lr * config.coef_lr)]
        groups = parameter_groups(parts, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)
        # A batch of few has few negatives: those that are not full sit the epoch out.
        order = EpochOrder(train_data, config.bs, 1, config.seed, whole_batches=True)
        super().__init__(config, accelerator, model, order, optimizer)

    def size(self) -> str:
        data = self.order.data
        assert isinstance(data, RetrievalData)
        return f"{len(data.video_ids):,} videos, {len(data.text):,} captions, {len(data):,} pairs an epoch"

    def rate_factor(self, step: int) -> float:
        return cosine_factor(step, self.config.warmup_proportion, self.total_steps)

    def loss(self, batch: RetrievalBatch) -> Tensor:
        return self.model(batch)

    def logged(self, batches: list[RetrievalBatch], seconds: float) -> dict[str, float]:
        return {"pairs_per_second": round(sum(len(batch.text) for batch in batches) / seconds)}

    def after_step(self) -> None:
        self.retrieval.clamp_scale()

    def validate(self) -> Validation | None:
        if self.eval_data is None:
            return None
        scores = evaluate_retrieval(self.retrieval, self.eval_data)
        there, back = scores.text_to_video, scores.video_to_text
        kept = {
            "val_R1": there.R1,
            "val_R5": there.R5,
            "val_R10": there.R10,
            "val_MdR": there.MdR,
            "val_MnR": there.MnR,
        }
        line = (
            f"validation, text to video: R@1 {there.R1:.1f}, R@5 {there.R5:.1f}, R@10 {there.R10:.1f}, median rank "
            f"{there.MdR:g} of {scores.videos}; video to text: R@1 {back.R1:.1f}"
        )
        return Validation(there.R1 + there.R5 + there.R10, kept, kept, line)

    def sources(self) -> dict[str, Any]:
        config = self.config
        data = self.order.data
        assert isinstance(data, RetrievalData)
        stored = None if config.data is None else store_facts(self.fingerprint, config.data, data.video_ids)
        return {
            "features": stored,
            "annotations": digests(config.caption or []),
            "training_data": self.data_digest,
        }

    def restore(self) -> None:
        last = self.config.out_dir / "last"
        _, info = read_retrieval_config(last)
        if self.fingerprint is not None:
            check_fingerprints(info.fingerprint, self.fingerprint, str(self.config.data))
        if info.progress.get("data_digest", self.data_digest) != self.data_digest:
            raise ClipcapError(
                f"the run in {self.config.out_dir} was started on other videos or captions, or on another number of "
                "processes; resume it with those"
            )
        load_retrieval_weights(self.retrieval, last / "model.safetensors")

    def write(self, directory: Path, progress: dict[str, Any], extra: Callable[[Path], None] | None) -> None:
        fingerprint = self.fingerprint
        if self.retrieval.clip is not None:
            fingerprint = own_fingerprint(self.retrieval, directory, self.config)
        info = CheckpointInfo(fingerprint, self.config.to_json(), progress)
        save_retrieval(directory, self.retrieval, info, extra=extra)


def sorted_parameters(model: RetrievalModel, chosen: set[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """`chosen` in the order of the model, which the optimiser's state on disk relies on."""
    return [parameter for parameter in model.parameters() if parameter in chosen]


def own_fingerprint(model: RetrievalModel, directory: Path, config: RetrievalTrainConfig) -> Fingerprint | None:
    """Of the features that extract_features.py makes with the checkpoint's CLIP; None where it can make none.

    A 3d patch projection looks at neighbouring frames, so its features are no matter of single frames.
    """
    assert model.clip is not None
    if model.clip.linear_patch == "3d":
        return None
    return Fingerprint(
        encoder=str((directory / "model.safetensors").resolve()),
        weights=digest_weights(model.clip.network),
        preprocessing=str(model.clip.pixels),
        sampling=SamplingSpec(SLICES[config.slice_framepos], config.max_frames, config.feature_framerate),
    )


def evaluate_retrieval(model: RetrievalModel, data: RetrievalData, first_only: bool | None = None) -> RetrievalScores:
    """Scores of `model` on `data`, an entry a video. Leaves the model's mode as it was.

    first_only: each video's first caption is its only query; None is so for the tight head alone, which reads every
    pair of text and video anew.
    """
    was_training = model.training
    model.eval()
    split = embed_split(model, data, not model.separable if first_only is None else first_only)
    if split.mask is None:
        scores = score_vectors(split.text, split.videos, split.video_of)
    else:
        scores = score_matrix(model.similarity(split.text, split.videos, split.mask), split.video_of)
    model.train(was_training)
    return scores


@dataclass(frozen=True)
class EmbeddedSplit:
    """N texts and V videos of a split, as a model compares them.

    text: [N, D]. videos: unit vectors [V, D], and mask None, of a separable head; frames [V, T, D] with mask [V, T]
    bool of the tight one. video_of: [N] int64, the video that each text belongs to. Videos that could not be read are
    not among them.
    """

    text: Tensor
    videos: Tensor
    mask: Tensor | None
    video_of: Tensor


@torch.no_grad()
def embed_split(model: RetrievalModel, data: RetrievalData, first_only: bool) -> EmbeddedSplit:
    """All captions of `data` (an entry a video), or the first of each video, and its videos; for a model in eval mode.

    Raises ClipcapError when no video can be read.
    """
    chosen = [captions[:1] if first_only else captions for captions in data.captions]
    frames, masks, kept = [], [], []
    for start in range(0, len(data), VIDEOS_AT_ONCE):
        indices = range(start, min(start + VIDEOS_AT_ONCE, len(data)))
        loaded = data.source.load([data.video_ids[index] for index in indices])
        there = [(index, part) for index, part in zip(indices, loaded, strict=True) if part is not None]
        if not there:
            continue
        kept += [index for index, _ in there]
        part, mask = stack_frames([part for _, part in there])
        if isinstance(data.source, DecodedFrames):
            part = model.frame_features(part.to(model.device), mask.to(model.device))
        embedded = model.embed_frames(part, mask)
        frames.append(model.pool(embedded, mask) if model.separable else embedded)
        masks.append(mask)
    if not kept:
        raise ClipcapError("not one video of the split can be read; check the videos with extract_features.py")
    video_of = torch.tensor([row for row, index in enumerate(kept) for _ in chosen[index]])
    numbers = [number for index in kept for number in chosen[index]]
    text = _embed(model, data.text[numbers])
    if model.separable:
        return EmbeddedSplit(text, torch.cat(frames), None, video_of)
    longest = max(part.shape[1] for part in frames)
    wide = [torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in frames]
    seen = [torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in masks]
    return EmbeddedSplit(text, torch.cat(wide), torch.cat(seen), video_of)


def _embed(model: RetrievalModel, inputs: Tensor) -> Tensor:
    parts = inputs.split(256)
    return torch.cat([model.embed_text_inputs(part.float() if part.is_floating_point() else part) for part in parts])
