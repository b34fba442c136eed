"""CIDEr of a corpus, of the official scorer; and of single captions against fixed document frequencies, quick enough to
reward every sample in training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from clipcap_video.metrics import ptb
from clipcap_video.metrics.base import Figures, Metric, Tokens, mean_figures

LONGEST = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # of the Gaussian penalty on a difference in length

Ngram = tuple[str, ...]


class Cider(Metric):
    """Of the corpus, the mean of its videos'; n-grams weigh by how many videos' references hold them."""

    def score(self, hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> Figures:
        from pycocoevalcap.cider.cider import Cider as Scorer

        each = [0.0] * len(hypotheses)
        # The scorer cannot do without a word.
        if any(reference for references in targets.values() for reference in references):
            each = Scorer().compute_score(targets, hypotheses)[1].tolist()
        return mean_figures("CIDEr", dict(zip(hypotheses, each, strict=True)), weights)


class CiderReward:
    """CIDEr-D (Vedantam et al., CVPR 2015, section 4), as pycocoevalcap computes it, with n-grams weighed by how many
    videos of a fixed set have them in a reference.

    references: the captions of every video of that set, as lists of words.
    """

    def __init__(self, references: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.references = references
        self._log_videos = math.log(len(references))
        self._frequency: Counter[Ngram] = Counter()
        for captions in references.values():
            self._frequency.update({ngram for words in captions for ngram in count_ngrams(words)})

    def score(self, video: str, captions: Sequence[Sequence[str]]) -> list[float]:
        """The score of each of `captions` (lists of words) against the references of `video`: 0 to 10."""
        # An inverted index of the references: most n-grams of a caption are in few of them or in none.
        vectors = [self._vector(words) for words in self.references[video]]
        postings: dict[Ngram, list[tuple[int, float]]] = {}
        for number, (weights, _, _) in enumerate(vectors):
            for ngram, weight in weights.items():
                postings.setdefault(ngram, []).append((number, weight))
        return [self._similarity(words, vectors, postings) for words in captions]

    def _similarity(
        self, words: Sequence[str], vectors: Sequence[_Vector], postings: Mapping[Ngram, list[tuple[int, float]]]
    ) -> float:
        weights, norms, length = self._vector(words)
        products = [[0.0] * len(vectors) for _ in range(LONGEST)]
        for ngram, weight in weights.items():
            row = products[len(ngram) - 1]
            for number, other in postings.get(ngram, ()):
                row[number] += min(weight, other) * other
        total = 0.0
        for number, (_, other_norms, other_length) in enumerate(vectors):
            cosines = sum(
                product[number] / (norm * other_norm)
                for product, norm, other_norm in zip(products, norms, other_norms, strict=True)
                if norm and other_norm
            )
            total += cosines * math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))
        return 10 * total / (LONGEST * len(vectors))

    def _vector(self, words: Sequence[str]) -> _Vector:
        """tf-idf weight of every n-gram, their norm for each n, and the length that the scorer compares."""
        weights = {
            ngram: count * (self._log_videos - math.log(max(1, self._frequency[ngram])))
            for ngram, count in count_ngrams(words).items()
        }
        # The official scorer counts the pairs of words, not the words.
        return weights, vector_norms(weights), max(0, len(words) - 1)


_Vector = tuple[dict[Ngram, float], list[float], int]


def vector_norms(weights: Mapping[Ngram, float]) -> list[float]:
    """Length of a caption's vector of n-gram weights, for each n."""
    squares = [0.0] * LONGEST
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return [math.sqrt(square) for square in squares]


def count_ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + size]) for size in range(1, LONGEST + 1) for start in range(len(words) - size + 1)
    )


# Counts as the last word of a caption. Without it nothing would speak against one that ends in the middle.
END = "</s>"


def caption_words(caption: str, ended: bool = True) -> list[str]:
    """The words that the official metrics would count, and one more for the end where there is one."""
    words = ptb.tokenize(caption).split()
    return [*words, END] if ended else words
