"""Pairs of text and video for retrieval, from stored features or from video files."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.encode import DecodeAhead
from clipcap_video.retrieval.model import RetrievalBatch
from clipcap_video.video.reader import FrameChunk, Transform
from clipcap_video.video.sampling import TIME_TOLERANCE, SamplingSpec, Span, spread

SLICES = {"0": "head", "1": "tail", "2": "uniform"}  # CLIP4Clip's --slice_framepos


def sliced(count: int, most: int, slice_framepos: str) -> np.ndarray:
    """Which of `count` frames to take, at most `most`: int64 [k]."""
    kind = SLICES[slice_framepos]
    if kind == "uniform":
        return spread(count, most)
    every = np.arange(count)
    return every[:most] if kind == "head" else every[-most:]


class FrameSource(Protocol):
    """Frames of videos by id."""

    def load(self, video_ids: Sequence[str]) -> list[Tensor | None]:
        """[T_i, ...] of each video; None of one that cannot be read."""
        ...


KEPT_BYTES = 2**30


@dataclass
class StoredFrames:
    """Frame features [T, W] of a store. They are read anew only once KEPT_BYTES of them are in memory."""

    store: FeatureStore
    max_frames: int
    slice_framepos: str = "2"
    kept: dict[str, Tensor] = field(default_factory=dict)
    room: int = KEPT_BYTES

    def load(self, video_ids: Sequence[str]) -> list[Tensor | None]:
        return [self._load(video_id) for video_id in video_ids]

    def _load(self, video_id: str) -> Tensor:
        if video_id in self.kept:
            return self.kept[video_id]
        features = self.store.load(video_id).features
        chosen = torch.from_numpy(features[sliced(len(features), self.max_frames, self.slice_framepos)])
        if self.room >= chosen.nbytes:
            self.room -= chosen.nbytes
            self.kept[video_id] = chosen
        return chosen


@dataclass
class DecodedFrames:
    """Preprocessed pictures uint8 [T, 3, S, S] of video files, decoded each time that they are asked for.

    max_seconds: the last frame that is taken is at most so late; 0 takes all of a video.
    A video that cannot be read is named once on stderr and sits every batch out.
    """

    videos: dict[str, Path]
    spec: SamplingSpec
    transform: Transform
    workers: int
    max_seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)

    def load(self, video_ids: Sequence[str]) -> list[Tensor | None]:
        wanted = {video_id: self.videos[video_id] for video_id in video_ids if video_id not in self.bad}
        images: dict[str, list[Tensor]] = {video_id: [] for video_id in wanted}
        span = Span(0, self.max_seconds + TIME_TOLERANCE)
        spans = dict.fromkeys(wanted, span) if self.max_seconds else None
        with DecodeAhead(wanted, self.spec, self.transform, self.workers, spans) as ahead:
            for video_id, event in ahead:
                if isinstance(event, FrameChunk):
                    images[video_id].append(event.images)
                elif isinstance(event, VideoError):
                    self.bad[video_id] = str(event)
                    print(f"left out: {event}", file=sys.stderr)
        return [torch.cat(images[name]) if images.get(name) and name not in self.bad else None for name in video_ids]


@dataclass
class RetrievalData:
    """Pairs of one split.

    video_ids: the videos. video_of: for each entry of an epoch its video; captions: for each entry the numbers of
    its captions, of which an epoch takes one. text: of all captions, float [M, W'] embeddings or int64 [M, L] tokens.
    """

    source: FrameSource
    video_ids: list[str]
    video_of: list[int]
    captions: list[list[int]]
    text: Tensor

    @classmethod
    def of(
        cls, records: Sequence[VideoRecord], source: FrameSource, encode: Callable[[list[str]], Tensor], expand: bool
    ) -> RetrievalData:
        """All captions of `records`, which have some. expand: an entry a caption, otherwise an entry a video."""
        texts = [caption for record in records for caption in record.captions]
        ends = np.cumsum([len(record.captions) for record in records]).tolist()
        numbers = [list(range(end - len(record.captions), end)) for record, end in zip(records, ends, strict=True)]
        video_of = list(range(len(records)))
        if expand:
            video_of = [video for video, captions in enumerate(numbers) for _ in captions]
            numbers = [[number] for captions in numbers for number in captions]
        return cls(source, [record.video_id for record in records], video_of, numbers, encode(texts))

    def __len__(self) -> int:
        return len(self.captions)

    def digest(self) -> str:
        """Tells one set of videos and captions from another."""
        text = hashlib.sha256(self.text.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        content = json.dumps([self.video_ids, self.captions, text], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def batch(self, indices: Sequence[int], choose: Callable[[int], Sequence[int]]) -> RetrievalBatch:
        """The entries `indices`, each with the caption that `choose` gives for it, without unreadable videos."""
        videos = [self.video_of[index] for index in indices]
        different = list(dict.fromkeys(videos))
        loaded = dict(zip(different, self.source.load([self.video_ids[video] for video in different]), strict=True))
        chosen = [
            (index, video, frames)
            for index, video in zip(indices, videos, strict=True)
            if (frames := loaded[video]) is not None
        ]
        if not chosen:
            raise ClipcapError("not one video of a batch can be read; check the videos with extract_features.py")
        frames, mask = stack_frames([frames for _, _, frames in chosen])
        text = self.text[[choose(index)[0] for index, _, _ in chosen]]
        text = text.float() if text.is_floating_point() else text
        return RetrievalBatch(frames, mask, text, torch.tensor([video for _, video, _ in chosen]))


def stack_frames(videos: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pads [T_i, ...] to the longest -> [B, T, ...], zero in padding, and mask [B, T] bool."""
    frames = torch.nn.utils.rnn.pad_sequence(list(videos), batch_first=True)
    lengths = torch.tensor([len(video) for video in videos])
    return frames, torch.arange(frames.shape[1]) < lengths[:, None]
