"""Training data: videos with features and tokenised captions, served in an order that follows from the seed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch

from clipcap_video.datasets.records import Texts, VideoRecord
from clipcap_video.features.base import FeatureStore, thin_frames
from clipcap_video.models.packing import PackedCaptions, pack

# Longest caption, in tokens, that validation and self-critical training decode.
LONGEST_CAPTION = 30


@dataclass
class CaptionData:
    """Videos of one split. captions[i] are the token lists of video_ids[i], end token included where there is one.

    ignored_label: a token id that is read but not predicted. texts: the captions themselves, in the same order.
    origins: for each video the annotation file that has it, by its place; empty is 0 everywhere.
    prompts: int64 [n, H], what is read of each video before its captions; None where the captioner itself tells.
    """

    store: FeatureStore
    video_ids: list[str]
    captions: list[Sequence[list[int]]]
    max_frames: int
    ignored_label: int | None = None
    texts: list[Sequence[str]] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    prompts: torch.Tensor | None = None

    @classmethod
    def tokenise(
        cls,
        records: Sequence[VideoRecord],
        store: FeatureStore,
        encode: Callable[[list[str]], list[list[int]]],
        max_frames: int,
        ignored_label: int | None = None,
    ) -> CaptionData:
        """Data of `records`, of which those without captions are left out, as are captions without a label.

        Captions that are not in memory are tokenised when a batch asks for them.
        """
        if records and all(isinstance(record.captions, Texts) for record in records):
            data = cls(store, [record.video_id for record in records], [], max_frames, ignored_label)
            data.texts = [record.captions for record in records]
            data.captions = [TokenLists(record.captions, encode) for record in records]
            data.origins = _origins(record.origin for record in records)
            return data
        encoded = iter(encode([caption for record in records for caption in record.captions]))
        data = cls(store, [], [], max_frames, ignored_label)
        origins = []
        for record in records:
            pairs = zip(record.captions, islice(encoded, len(record.captions)), strict=True)
            kept = [(text, tokens) for text, tokens in pairs if any(token != ignored_label for token in tokens)]
            if kept:
                data.video_ids.append(record.video_id)
                data.texts.append([text for text, _ in kept])
                data.captions.append([tokens for _, tokens in kept])
                origins.append(record.origin)
        data.origins = _origins(origins)
        return data

    def __len__(self) -> int:
        return len(self.video_ids)

    def digest(self) -> str:
        """Tells one set of videos and captions from another."""
        if self.texts and isinstance(self.texts[0], Texts):
            return _digest_of_columns(self.video_ids, [text for text in self.texts if isinstance(text, Texts)])
        content = json.dumps([self.video_ids, self.captions], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def features(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Frame features [T, D] of each of the videos `indices`, T at most max_frames."""
        videos = self.store.load_many([self.video_ids[index] for index in indices])
        return [thin_frames(video, self.max_frames).features for video in videos]

    def batch(self, indices: Sequence[int], choose: Callable[[int], Sequence[list[int]]]) -> PackedCaptions:
        """The videos `indices`, each with the captions that `choose` gives for it."""
        captions = [list(choose(index)) for index in indices]
        batch = pack(self.features(indices), captions, self.ignored_label)
        if self.origins:
            batch.origin = torch.tensor([self.origins[index] for index in indices])
        if self.prompts is not None:
            batch.prompt = self.prompts[list(indices)]
        return batch


def _origins(places: Iterable[int]) -> list[int]:
    """Empty where all are 0."""
    found = list(places)
    return found if any(found) else []


class TokenLists(Sequence[list[int]]):
    """The token lists of a video's captions, made when they are looked at."""

    __slots__ = ("encode", "texts")

    def __init__(self, texts: Sequence[str], encode: Callable[[list[str]], list[list[int]]]) -> None:
        self.texts, self.encode = texts, encode

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.encode(list(self.texts)))

    def __getitem__(self, index: Any) -> Any:
        return self.encode(list(self.texts[index])) if isinstance(index, slice) else self.encode([self.texts[index]])[0]


def _digest_of_columns(video_ids: Sequence[str], texts: Sequence[Texts]) -> str:
    digest = hashlib.sha256(os.fsencode("\n".join(video_ids)))
    digest.update(np.array([(text.start, text.end) for text in texts], np.int64).tobytes())
    for column in {id(text.column): text.column for text in texts}.values():
        for buffer in column.buffers():
            digest.update(b"" if buffer is None else memoryview(buffer))
    return digest.hexdigest()[:16]


class EpochData(Protocol):
    """Videos, each with its captions in any form, that make batches."""

    @property
    def captions(self) -> Sequence[Sequence[Any]]: ...

    def __len__(self) -> int: ...

    def digest(self) -> str: ...

    def batch(self, indices: Sequence[int], choose: Callable[[int], Sequence[Any]]) -> Any: ...


class EpochOrder:
    """Which videos stand in which batch, and which of their captions: a function of seed and epoch alone.

    whole_batches: videos that do not fill a batch sit the epoch out.
    """

    def __init__(
        self, data: EpochData, batch_size: int, captions_per_video: int, seed: int, whole_batches: bool = False
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.captions_per_video = captions_per_video
        self.seed = seed
        self.whole_batches = whole_batches

    def batches(self, epoch: int) -> list[list[int]]:
        """Indices of the videos of every batch."""
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.data)).tolist()
        if self.whole_batches:
            order = order[: len(order) // self.batch_size * self.batch_size]
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def captions(self, epoch: int, index: int) -> Sequence[Any]:
        """The captions of one video in one epoch: all, or the next few of a fixed random order.

        With K of n captions an epoch, ceil(n / K) epochs use every caption.
        """
        captions, count = self.data.captions[index], self.captions_per_video
        if count == 0 or count >= len(captions):
            return captions
        order = np.random.default_rng([self.seed, 2, index]).permutation(len(captions))
        return [captions[order[(epoch * count + turn) % len(captions)]] for turn in range(count)]

    def load(self, epoch: int, batches: Sequence[list[int]]) -> Iterator[Any]:
        for indices in batches:
            yield self.data.batch(indices, lambda index: self.captions(epoch, index))
