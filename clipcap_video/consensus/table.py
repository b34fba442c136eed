"""The n-grams that a consensus network predicts, and what CIDEr makes of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clipcap_video.metrics.cider import LONGEST, SIGMA, Ngram, count_ngrams, vector_norms

# Captions with more words than this count as having so many.
LONGEST_COUNTED = 40


@dataclass(frozen=True)
class NgramTable:
    """The n-grams that are predicted, and what CIDEr makes of them.

    ngrams: G of them. rarity: float32 [G], log(videos / videos with a caption that has it). unknown: float32
    [LONGEST], the same for the n-grams of each length that are not in the table, on average. weight: float32 [G], an
    n-gram's share of the length of the vector of a caption that has it, on average: 0 to 1. lengths: float32 [L], the
    share of captions that have 0, 1, ... words, or the longest L - 1 and more.
    """

    ngrams: Sequence[Ngram]
    rarity: Tensor
    unknown: Tensor
    weight: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, videos: Sequence[Sequence[Sequence[str]]], size: int) -> NgramTable:
        """The `size` n-grams that most captions have. videos: for each its captions, as lists of words."""
        captions_with: Counter[Ngram] = Counter()
        videos_with: Counter[Ngram] = Counter()
        for captions in videos:
            counts = [count_ngrams(words) for words in captions]
            captions_with.update(ngram for count in counts for ngram in count)
            videos_with.update({ngram for count in counts for ngram in count})
        ngrams = sorted(captions_with, key=lambda ngram: (-captions_with[ngram], ngram))[:size]
        index = {ngram: place for place, ngram in enumerate(ngrams)}

        rarity = {ngram: math.log(len(videos) / number) for ngram, number in videos_with.items()}
        shares, seen = [0.0] * len(ngrams), [0] * len(ngrams)
        left_out, left_out_rarity = [0] * LONGEST, [0.0] * LONGEST
        for captions in videos:
            for words in captions:
                weights = {ngram: times * rarity[ngram] for ngram, times in count_ngrams(words).items()}
                norms = vector_norms(weights)
                for ngram, weight in weights.items():
                    order, place = len(ngram) - 1, index.get(ngram)
                    if place is None:
                        left_out[order] += 1
                        left_out_rarity[order] += rarity[ngram]
                    else:
                        seen[place] += 1
                        shares[place] += weight / norms[order] if norms[order] else 0.0
        counted = torch.tensor([min(len(words), LONGEST_COUNTED) for captions in videos for words in captions])
        return cls(
            ngrams,
            torch.tensor([rarity[ngram] for ngram in ngrams]),
            # With nothing left out, an n-gram that was never seen is in one video at most.
            torch.tensor(
                [total / n if n else math.log(len(videos)) for total, n in zip(left_out_rarity, left_out, strict=True)]
            ),
            torch.tensor([total / n for total, n in zip(shares, seen, strict=True)]),
            torch.bincount(counted, minlength=LONGEST_COUNTED + 1) / len(counted),
        )

    def extended(self, other: NgramTable, most: int) -> NgramTable:
        """With up to `most` n-grams of another table behind its own, each as rare here as what is in no table."""
        have = set(self.ngrams)
        places = [place for place, ngram in enumerate(other.ngrams) if ngram not in have][:most]
        added = [other.ngrams[place] for place in places]
        rarity = torch.stack([self.unknown[len(ngram) - 1] for ngram in added]) if added else self.rarity[:0]
        return replace(
            self,
            ngrams=[*self.ngrams, *added],
            rarity=torch.cat([self.rarity, rarity]),
            weight=torch.cat([self.weight, other.weight[places]]),
        )


def length_penalty(length: int, lengths: Sequence[float]) -> float:
    """By what CIDEr-D multiplies the score of a caption of so many words, on average over the length of references."""
    return sum(share * math.exp(-((length - other) ** 2) / (2 * SIGMA**2)) for other, share in enumerate(lengths))
