"""How well texts find their videos and videos their texts: R@1, R@5, R@10, median and mean rank.

As in CLIP4Clip (Luo et al., arXiv 2104.08860): every caption is a query of its own, and a video's similarity to the
captions of another is that of the closest of them, so both ways rank as many things as there are videos. Of things
that score the same, the one with the lower index comes first, so that a rank is one number and a model that scores
everything alike gains nothing.

Similarities are made a few rows at a time and never kept: beside the vectors themselves, ranking needs
CELLS_AT_ONCE * 4 bytes (256 MiB) for the rows, up to five times that for what is made of them, and 8 bytes a query.
A million texts by a million videos of 512 float32 numbers is 4.1 GB of vectors and at most 1.3 GiB beside them, where
the matrix would be 4 TB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.bootstrap import interval, resample_weights

CELLS_AT_ONCE = 2**26

# Similarities of the queries start..end to all candidates: (start, end) -> [end - start, candidates].
Rows = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class RankScores:
    """R@k: per cent of queries whose answer is among the first k. MdR, MnR: median and mean rank, from 1."""

    R1: float
    R5: float
    R10: float
    MdR: float
    MnR: float

    @classmethod
    def of(cls, ranks: Tensor) -> RankScores:
        """ranks: int64 [N], from 1. The median of an even number is the middle of the two in the middle."""
        recalls = [100 * (ranks <= k).double().mean().item() for k in (1, 5, 10)]
        # quantile() has a limit of 16 million numbers; sorting has none.
        ordered = ranks.double().sort().values
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        return cls(recalls[0], recalls[1], recalls[2], middle.item(), ranks.double().mean().item())

    @classmethod
    def by_chance(cls, candidates: int) -> RankScores:
        """What guessing gives on average: every rank from 1 to `candidates` is as likely."""
        recalls = [100 * min(k, candidates) / candidates for k in (1, 5, 10)]
        middle = (candidates + 1) / 2
        return cls(recalls[0], recalls[1], recalls[2], middle, middle)


@dataclass(frozen=True)
class Ranks:
    """Ranks from 1 of each text's video [N] and of each video's texts [V]; video_of [N]: the text's video."""

    of_texts: Tensor
    of_videos: Tensor
    video_of: Tensor


@dataclass(frozen=True)
class RetrievalScores:
    """Both ways, and how many queries there were: texts in one, videos in the other."""

    text_to_video: RankScores
    video_to_text: RankScores
    texts: int
    videos: int
    split: str | None = None
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """Bootstrap 95 % intervals over videos, by way and figure; empty unless asked for."""
    ranks: Ranks | None = field(default=None, repr=False, compare=False)

    def with_intervals(self, resamples: int, seed: int = 0) -> RetrievalScores:
        """The same with intervals: videos are drawn with all their captions, as queries among all that there are."""
        assert self.ranks is not None
        weights = torch.from_numpy(resample_weights(self.videos, resamples, seed)).double()
        ways = {
            "text_to_video": _drawn(self.ranks.of_texts, self.ranks.video_of, weights),
            "video_to_text": _drawn(self.ranks.of_videos, torch.arange(self.videos), weights),
        }
        return replace(
            self, intervals={way: {name: interval(drawn) for name, drawn in one.items()} for way, one in ways.items()}
        )

    def to_json(self) -> dict[str, object]:
        kept = {name: value for name, value in asdict(replace(self, ranks=None)).items() if name != "ranks"}
        return kept | {"by_chance": asdict(RankScores.by_chance(self.videos))}

    def table(self) -> str:
        """The scores as lines of text, beside random guess."""
        split = f"split {self.split}, " if self.split else ""
        size = f"({split}{self.texts:,} texts, {self.videos:,} videos)"
        lines = [f"{'':15}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'MdR':>8}{'MnR':>8}   {size}"]
        named = (
            ("text to video", self.text_to_video),
            ("video to text", self.video_to_text),
            ("random guess", RankScores.by_chance(self.videos)),
        )
        lines += [
            f"{name:15}{row.R1:7.2f}{row.R5:7.2f}{row.R10:7.2f}{row.MdR:8.1f}{row.MnR:8.1f}" for name, row in named
        ]
        for way, figures in self.intervals.items():
            shown = ", ".join(f"{name} [{low:.2f}, {high:.2f}]" for name, (low, high) in figures.items())
            lines.append(f"95 %, {way.replace('_', ' ')}: {shown}")
        return "\n".join(lines)


def score_retrieval(texts_to_videos: Rows, videos_to_texts: Rows, video_of: Tensor, videos: int) -> RetrievalScores:
    """Scores of N texts and V videos.

    texts_to_videos, videos_to_texts: similarities, a few rows at a time. video_of: [N] int64, the video that each
    text belongs to; every video has one text or more.
    Raises ClipcapError when a similarity is not a number.
    """
    count = torch.bincount(video_of, minlength=videos)
    if len(count) > videos or not count.all():
        raise ValueError("every video needs a text, and every text a video")
    by_text = rank(texts_to_videos, video_of, videos)
    by_video = rank(closest(videos_to_texts, video_of, videos), torch.arange(videos), max(len(video_of), videos))
    ranks = Ranks(by_text, by_video, video_of)
    return RetrievalScores(RankScores.of(by_text), RankScores.of(by_video), len(video_of), videos, ranks=ranks)


def _drawn(ranks: Tensor, video_of: Tensor, weights: Tensor) -> dict[str, np.ndarray]:
    """The figures of queries that count as often as their videos are drawn, weights [S, V]: name -> [S]."""
    ordered, order = ranks.double().sort()
    rows = []
    for row in weights:
        weight = row[video_of[order]]
        upto = weight.cumsum(0)
        total = upto[-1]
        low = torch.searchsorted(upto, total / 2)  # the first with half of the weight before or at it
        high = torch.searchsorted(upto, total / 2, right=True)
        recalls = [100 * weight[ordered <= k].sum() / total for k in (1, 5, 10)]
        rows.append(torch.stack([*recalls, (ordered[low] + ordered[high]) / 2, (weight * ordered).sum() / total]))
    return dict(zip(("R1", "R5", "R10", "MdR", "MnR"), torch.stack(rows).T.numpy(), strict=True))


def rank(rows: Rows, answer: Tensor, width: int) -> Tensor:
    """Ranks int64 [N], from 1, of the candidates answer [N] among those of each query's row.

    width: candidates a query, which decides how many rows are made at once.
    """
    ranks = torch.empty(len(answer), dtype=torch.int64)
    step = max(1, CELLS_AT_ONCE // width)
    for start in range(0, len(answer), step):
        end = min(start + step, len(answer))
        scores, answers = rows(start, end), answer[start:end, None]
        if scores.isnan().any():
            raise ClipcapError("similarities are not numbers; the model's weights are damaged, use another checkpoint")
        mine = scores.gather(1, answers)
        before = torch.arange(scores.shape[1]) < answers
        ranks[start:end] = 1 + (scores > mine).sum(1) + ((scores == mine) & before).sum(1)
    return ranks


def closest(videos_to_texts: Rows, video_of: Tensor, videos: int) -> Rows:
    """Rows over the videos that own the texts: of each, the similarity of its closest text."""

    def rows(start: int, end: int) -> Tensor:
        scores = videos_to_texts(start, end)
        owners = video_of.expand(len(scores), -1)
        return scores.new_full((len(scores), videos), float("-inf")).scatter_reduce_(1, owners, scores, "amax")

    return rows


def score_vectors(text: Tensor, video: Tensor, video_of: Tensor) -> RetrievalScores:
    """The same from unit vectors, text [N, D] and video [V, D]."""
    return score_retrieval(
        lambda start, end: text[start:end] @ video.T,
        lambda start, end: video[start:end] @ text.T,
        video_of,
        len(video),
    )


def score_matrix(similarity: Tensor, video_of: Tensor) -> RetrievalScores:
    """The same from a matrix [N, V] that is at hand."""
    return score_retrieval(
        lambda start, end: similarity[start:end],
        lambda start, end: similarity[:, start:end].T,
        video_of,
        similarity.shape[1],
    )
