"""Training data: videos with features and tokenised captions, served in an order that follows from the seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from clipcap_video.datasets.packing import PackedCaptions, pack, thin_frames
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.features import FeatureStore


@dataclass
class CaptionData:
    """Videos of one split. captions[i] are the token lists of video_ids[i], end token included where there is one.

    ignored_label: a token id that is read but not predicted.
    """

    store: FeatureStore
    video_ids: list[str]
    captions: list[list[list[int]]]
    max_frames: int
    ignored_label: int | None = None

    @classmethod
    def tokenise(
        cls,
        records: Sequence[VideoRecord],
        store: FeatureStore,
        encode: Callable[[list[str]], list[list[int]]],
        max_frames: int,
        ignored_label: int | None = None,
    ) -> CaptionData:
        """Data of `records`, of which those without captions are left out, as are captions without a label."""
        encoded = iter(encode([caption for record in records for caption in record.captions]))
        kept = {
            record.video_id: [
                tokens
                for tokens in islice(encoded, len(record.captions))
                if any(token != ignored_label for token in tokens)
            ]
            for record in records
        }
        kept = {video_id: captions for video_id, captions in kept.items() if captions}
        return cls(store, list(kept), list(kept.values()), max_frames, ignored_label)

    def __len__(self) -> int:
        return len(self.video_ids)

    def digest(self) -> str:
        """Tells one set of videos and captions from another."""
        content = json.dumps([self.video_ids, self.captions], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def features(self, index: int) -> np.ndarray:
        """Frame features [T, D] of one video, T at most max_frames."""
        return thin_frames(self.store.load(self.video_ids[index]), self.max_frames).features

    def batch(self, indices: Sequence[int], choose: Callable[[int], list[list[int]]]) -> PackedCaptions:
        """The videos `indices`, each with the captions that `choose` gives for it."""
        captions = [choose(index) for index in indices]
        return pack([self.features(index) for index in indices], captions, self.ignored_label)


class EpochOrder:
    """Which videos stand in which batch, and which of their captions: a function of seed and epoch alone.

    whole_batches: videos that do not fill a batch sit the epoch out.
    """

    def __init__(
        self, data: CaptionData, batch_size: int, captions_per_video: int, seed: int, whole_batches: bool = False
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

    def captions(self, epoch: int, index: int) -> list[list[int]]:
        """The captions of one video in one epoch: all, or the next few of a fixed random order.

        With K of n captions an epoch, ceil(n / K) epochs use every caption.
        """
        captions, count = self.data.captions[index], self.captions_per_video
        if count == 0 or count >= len(captions):
            return captions
        order = np.random.default_rng([self.seed, 2, index]).permutation(len(captions))
        return [captions[order[(epoch * count + turn) % len(captions)]] for turn in range(count)]

    def load(self, epoch: int, batches: Sequence[list[int]]) -> Iterator[PackedCaptions]:
        for indices in batches:
            yield self.data.batch(indices, lambda index: self.captions(epoch, index))
