"""Captions of people, of which a consensus network tells the best for any video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.consensus.network import ConsensusRanker
from clipcap_video.consensus.table import length_penalty
from clipcap_video.files import open_safetensors, whole_file
from clipcap_video.metrics.cider import LONGEST, caption_words, count_ngrams, vector_norms


@dataclass(frozen=True)
class CaptionMemory:
    """C different captions. The CIDEr expected of each is linear in the shares that the network predicts.

    texts: the captions; videos: int32 [C], the number of the video of each.
    starts: int32 [C], where in the other two each begins; columns: int32 [N], n-grams by their places in the network's
    table; values: float32 [N], the CIDEr that each adds, times its share.
    """

    texts: Sequence[str]
    videos: Tensor
    starts: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], videos: Sequence[int], ranker: ConsensusRanker) -> CaptionMemory:
        """The captions of each of `videos`, for `ranker`. What several videos have counts as the first one's."""
        owner: dict[str, int] = {}
        for video, texts in zip(videos, captions, strict=True):
            for text in texts:
                owner.setdefault(text, video)
        rarity, unknown, share = (part.tolist() for part in (ranker.rarity, ranker.unknown, ranker.weight))
        lengths = ranker.lengths.tolist()
        penalty = cache(lambda length: length_penalty(length, lengths))
        starts: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for text in owner:
            words = caption_words(text)
            counts = count_ngrams(words)
            place = {ngram: ranker.known.get(ngram, -1) for ngram in counts}
            weights = {
                ngram: times * (unknown[len(ngram) - 1] if place[ngram] < 0 else rarity[place[ngram]])
                for ngram, times in counts.items()
            }
            norms = vector_norms(weights)
            starts.append(len(columns))
            for ngram, column in place.items():
                if column >= 0 and norms[len(ngram) - 1]:
                    columns.append(column)
                    cosine = weights[ngram] * share[column] / norms[len(ngram) - 1]
                    values.append(penalty(len(words)) * 10 * cosine / LONGEST)
        numbers, begins, places = (
            torch.tensor(part, dtype=torch.int32) for part in (list(owner.values()), starts, columns)
        )
        return cls(list(owner), numbers, begins, places, torch.tensor(values, dtype=torch.float32))

    def expected(self, shares: Tensor) -> Tensor:
        """The CIDEr, 0 to 10, that is expected of each caption: shares [B, G] -> [B, C]."""
        table = shares.T.contiguous()
        return F.embedding_bag(self.columns, table, self.starts, mode="sum", per_sample_weights=self.values).T

    def best(self, shares: Tensor, count: int, without: Sequence[int] | None = None) -> list[list[str]]:
        """The `count` captions of which most CIDEr is expected, best first, at most one a video; fewer if it has fewer.

        shares: [B, G]. without: for each of the B the number of the video whose captions it may not have.
        """
        expected = self.expected(shares)
        return [
            self._best(row, count, None if without is None else without[number]) for number, row in enumerate(expected)
        ]

    def _best(self, expected: Tensor, count: int, without: int | None) -> list[str]:
        size = 16 * count
        while True:
            found = expected.topk(min(size, len(expected)))
            chosen: dict[int, int] = {}
            for _, caption in sorted(zip((-found.values).tolist(), found.indices.tolist(), strict=True)):
                chosen.setdefault(int(self.videos[caption]), caption)
            chosen.pop(-1 if without is None else without, None)
            if len(chosen) >= count or size >= len(expected):
                return [self.texts[caption] for caption in list(chosen.values())[:count]]
            size *= 4

    def save(self, file: Path) -> None:
        """Writes it as one file; whole or not at all."""
        from safetensors.torch import save

        texts = torch.frombuffer(bytearray("\n".join(self.texts).encode()), dtype=torch.uint8)
        tensors = {"videos": self.videos, "starts": self.starts, "columns": self.columns, "values": self.values}
        with whole_file(file) as partial:
            partial.write_bytes(save({"texts": texts, **tensors}))

    @classmethod
    def load(cls, file: Path, ngrams: int, remedy: str) -> CaptionMemory:
        """Reads what `save` wrote. ngrams: G of the network that it is for. remedy: what to do if it cannot be read.

        Raises ClipcapError when the file is damaged or something else.
        """
        with open_safetensors(file, "the memory of captions", remedy) as opened:
            texts = opened.get_tensor("texts").numpy().tobytes().decode().split("\n")
            names = ("videos", "starts", "columns", "values")
            memory = cls(texts, *(opened.get_tensor(name) for name in names))
            memory.check(ngrams)
        return memory

    def check(self, ngrams: int) -> None:
        """Raises ValueError where its parts do not fit each other, or a table of so many n-grams."""
        whole = (self.videos, self.starts, self.columns)
        if any(part.dtype != torch.int32 for part in whole) or self.values.dtype != torch.float32:
            raise ValueError("its numbers are of another type")
        count = (len(self.texts),)
        if not count == self.videos.shape == self.starts.shape or self.columns.shape != self.values.shape:
            raise ValueError("its parts are not as many as its captions")
        ends = torch.cat([self.starts, torch.tensor([len(self.columns)], dtype=torch.int32)])
        if self.starts[0] != 0 or bool((ends.diff() < 0).any()):
            raise ValueError("its captions do not follow each other")
        if len(self.columns) and not 0 <= int(self.columns.min()) <= int(self.columns.max()) < ngrams:
            raise ValueError("its n-grams are not those of the network beside it")
        if not bool(self.values.isfinite().all()):
            raise ValueError("some of its values are no finite numbers")
