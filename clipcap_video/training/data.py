"""Training data: videos with features and tokenised captions, served in an order that follows from the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipcap_video.datasets.packing import PackedCaptions, pack, thin_frames
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.features import FeatureStore


@dataclass
class CaptionData:
    """Videos of one split. captions[i] are the token lists of video_ids[i], end token included."""

    store: FeatureStore
    video_ids: list[str]
    captions: list[list[list[int]]]
    max_frames: int

    @classmethod
    def tokenise(
        cls,
        records: Sequence[VideoRecord],
        store: FeatureStore,
        encode: Callable[[str], list[int]],
        max_frames: int,
    ) -> CaptionData:
        """Data of `records`, of which those without captions are left out."""
        kept = [record for record in records if record.captions]
        return cls(
            store,
            [record.video_id for record in kept],
            [[encode(caption) for caption in record.captions] for record in kept],
            max_frames,
        )

    def __len__(self) -> int:
        return len(self.video_ids)

    def features(self, index: int) -> np.ndarray:
        """Frame features [T, D] of one video, T at most max_frames."""
        return thin_frames(self.store.load(self.video_ids[index]), self.max_frames).features

    def batch(self, indices: Sequence[int], choose: Callable[[int], list[list[int]]]) -> PackedCaptions:
        """The videos `indices`, each with the captions that `choose` gives for it."""
        return pack([self.features(index) for index in indices], [choose(index) for index in indices])


class EpochOrder:
    """Which videos stand in which batch, and which of their captions: a function of seed and epoch alone."""

    def __init__(self, data: CaptionData, batch_size: int, captions_per_video: int, seed: int) -> None:
        self.data = data
        self.batch_size = batch_size
        self.captions_per_video = captions_per_video
        self.seed = seed

    def batches(self, epoch: int) -> list[list[int]]:
        """Indices of the videos of every batch."""
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.data)).tolist()
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
