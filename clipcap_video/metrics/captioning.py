"""Scores of captions by every metric of the registry: BLEU-1 to 4, METEOR, ROUGE-L and CIDEr, and what was added.

The official ones are computed by pycocoevalcap's scorers. METEOR and the tokenizer of the official evaluation are Java
programs (`metrics.java`). Without Java the captions are tokenised by `metrics.ptb` and METEOR is left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcap_video.datasets.records import VideoRecord, select
from clipcap_video.errors import ClipcapError
from clipcap_video.files import write_text
from clipcap_video.metrics import java as java_program
from clipcap_video.metrics import ptb
from clipcap_video.metrics.base import Tokens
from clipcap_video.metrics.bootstrap import interval, resample_weights
from clipcap_video.metrics.cider import Cider
from clipcap_video.metrics.registry import METRICS


@dataclass(frozen=True)
class CaptionScores:
    """Corpus scores as fractions (CIDEr can exceed 1); `scores["CIDEr"]` or the object itself by key."""

    scores: dict[str, float]
    per_video: dict[str, float]
    """CIDEr of each video."""
    tokenizer: str
    """"ptb" (the Java program) or "python"."""
    reasons: dict[str, str]
    """Why a figure was left out, by figure."""
    unpredicted: list[str] = field(default_factory=list)
    """Videos that have references and no prediction. They are not scored."""
    videos: int = 0
    references: int = 0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Bootstrap 95 % intervals over videos, by metric; empty unless asked for."""
    language: str | None = None
    """What is to be said where the references are hardly English."""

    @property
    def missing(self) -> list[str]:
        """Names of the figures left out."""
        return list(self.reasons)

    def __getitem__(self, metric: str) -> float:
        return self.scores[metric]

    @property
    def note(self) -> str | None:
        """A line for each reason why something was left out, and for a language that is not English; or None."""
        return "\n".join(dict.fromkeys([*self.reasons.values(), *filter(None, [self.language])])) or None


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    java: bool | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> CaptionScores:
    """Scores one caption a video against its references; only videos that have a prediction count.

    java: use Java's tokenizer and METEOR; None uses them when Java runs. bootstrap: so many resamples of the videos
    give each figure a 95 % interval (`metrics.bootstrap`), drawn from `seed`; 0 gives none.
    An empty prediction scores zero. CIDEr weighs n-grams by how many videos' references hold them, so the score of
    one video alone is 0 and scores of different sets of videos do not compare. Raises ClipcapError when there are no
    predictions, a predicted video has no references, or java is True and Java does not run.
    """
    _check(predictions, references)
    if java is None:
        java = java_program.java_runs()
    elif java and not java_program.java_runs():
        raise ClipcapError("Java does not run here; install a Java runtime (version 8 or later) or score without it")
    hypotheses, targets = _tokenized(predictions, references, "ptb" if java else "python")
    weights = resample_weights(len(hypotheses), bootstrap, seed) if bootstrap else None
    metrics = {kind: kind() for kind in METRICS.values()}
    reasons = {kind: metric.missing(java) for kind, metric in metrics.items()}
    figures_of = {
        kind: metric.score(hypotheses, targets, weights) for kind, metric in metrics.items() if reasons[kind] is None
    }
    given = [(figure, figures_of[kind]) for figure, kind in METRICS.items() if kind in figures_of]
    return CaptionScores(
        scores={figure: figures.scores[figure] for figure, figures in given},
        intervals={figure: interval(figures.drawn[figure]) for figure, figures in given if weights is not None},
        per_video=figures_of[METRICS["CIDEr"]].per_video,
        tokenizer="ptb" if java else "python",
        reasons={figure: reasons[kind] for figure, kind in METRICS.items() if kind not in figures_of},
        unpredicted=[video for video in references if video not in predictions],
        videos=len(hypotheses),
        references=sum(len(captions) for captions in targets.values()),
        language=ptb.assumes_english(caption for video in predictions for caption in references[video]),
    )


def score_figure(figure: str, predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float:
    """One figure alone, of captions that are tokenised without Java. Raises ClipcapError as `score_captions` does."""
    _check(predictions, references)
    score: float = METRICS.find(figure)().score(*_tokenized(predictions, references, "python")).scores[figure]
    return score


def require_figure(figure: str) -> None:
    """Raises ClipcapError with the reason if a figure cannot be computed here."""
    metric = METRICS.find(figure)()
    # Java is looked for only where it is needed.
    if metric.missing(False) and (reason := metric.missing(java_program.java_runs())):
        raise ClipcapError(f"--best_by {figure} cannot be computed here ({reason}); choose another")


def cider(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenizer: str = "python"
) -> tuple[float, dict[str, float]]:
    """CIDEr alone, of the corpus and of each video; starts no Java program unless tokenizer is "ptb".

    Raises ClipcapError as `score_captions` does.
    """
    _check(predictions, references)
    figures = Cider().score(*_tokenized(predictions, references, tokenizer))
    return figures.scores["CIDEr"], figures.per_video


@dataclass(frozen=True)
class UntokenizedScores:
    """scores: fractions, by figure. per_video: Bleu_4, ROUGE_L and CIDEr -> video -> fraction."""

    scores: dict[str, float]
    per_video: dict[str, dict[str, float]]


def score_untokenized(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> UntokenizedScores:
    """BLEU, ROUGE-L and CIDEr of captions split at blanks alone, as the MSR-VTT ClipCap program computes them.

    They do not compare with published figures; see `score_captions`. Raises ClipcapError as that does.
    """
    from pycocoevalcap.bleu.bleu import Bleu as BleuScorer
    from pycocoevalcap.rouge.rouge import Rouge

    _check(predictions, references)
    hypotheses = {video: [text] for video, text in predictions.items()}
    targets = {video: list(references[video]) for video in predictions}
    rouge, rouges = Rouge().compute_score(targets, hypotheses)  # to which "" is a word
    bleu, bleus = BleuScorer(4).compute_score(targets, hypotheses, verbose=0)
    cider = Cider().score(hypotheses, targets)
    scores = {f"Bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)}
    each = {"Bleu_4": bleus[3], "ROUGE_L": rouges}
    per_video = {figure: dict(zip(predictions, map(float, values), strict=True)) for figure, values in each.items()}
    return UntokenizedScores(
        {**scores, "ROUGE_L": float(rouge), **cider.scores}, {**per_video, "CIDEr": cider.per_video}
    )


def _check(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not predictions:
        raise ClipcapError("there are no predictions to score")
    without = [video for video in predictions if not references.get(video)]
    if without:
        raise ClipcapError(
            f"{len(without)} of {len(predictions)} predicted videos have no reference captions "
            f"({name_some(without)}); give the annotation file that describes them"
        )


def name_some(names: Sequence[str], limit: int = 3) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _tokenized(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenizer: str
) -> tuple[Tokens, Tokens]:
    """Tokenised predictions (one a video) and references of the same videos, in the predictions' order."""
    if tokenizer not in ("ptb", "python"):
        raise ClipcapError(f"unknown tokenizer {tokenizer!r}; it is ptb (needs Java) or python")
    lines = list(predictions.values())
    lines += [caption for video in predictions for caption in references[video]]
    tokens = iter(java_program.tokenize(lines) if tokenizer == "ptb" else map(_tokenize_cached, lines))
    hypotheses = {video: [next(tokens)] for video in predictions}
    targets = {video: [next(tokens) for _ in references[video]] for video in predictions}
    return hypotheses, targets


# Validation scores the same references after every epoch.
_tokenize_cached = functools.lru_cache(maxsize=300_000)(ptb.tokenize)


def evaluate_captions(
    predictions: Mapping[str, str],
    records: Sequence[VideoRecord],
    split: str | None = None,
    *,
    allow_missing: bool = False,
    java: bool | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> CaptionScores:
    """Scores predictions against the captions of a split; without one, against those of the predicted videos.

    Predictions for videos outside the split are left aside. Videos of the split without reference captions do
    not count; those without a prediction are an error unless allow_missing, for a score of the easier part of
    a split is not a score of the split. Raises ClipcapError when the split is unknown, has no captions, or is
    not covered. bootstrap, seed: see `score_captions`.
    """
    chosen = select(records, split) if split is not None else records
    references = {record.video_id: record.captions for record in chosen if record.captions}
    if split is None:
        wanted: dict[str, Sequence[str]] = {**dict.fromkeys(predictions, ()), **references}
        return score_captions(predictions, wanted, java=java, bootstrap=bootstrap, seed=seed)
    if not references:
        raise ClipcapError(f"split {split!r} has no captions in the annotations; there is nothing to score against")
    inside = {video: text for video, text in predictions.items() if video in references}
    missing = [video for video in references if video not in inside]
    if missing and not (allow_missing and inside):
        raise ClipcapError(
            f"{len(missing):,} of {len(references):,} videos of split {split!r} have no prediction "
            f"({name_some(missing)}); caption them, or score the others with --allow_missing"
        )
    return score_captions(inside, references, java=java, bootstrap=bootstrap, seed=seed)


def describe_scores(scores: CaptionScores) -> str:
    """A small table, figures times 100 with their 95 % intervals if known, with a line on anything left out."""
    lines = [
        f"{metric:<8}{100 * score:7.2f}{_describe_interval(scores, metric)}" for metric, score in scores.scores.items()
    ]
    lines.append(f"{scores.videos:,} videos, {scores.references:,} references, times 100")
    if scores.unpredicted:
        lines.append(f"{len(scores.unpredicted):,} videos have no prediction and are not scored")
    if scores.note:
        lines.append(scores.note)
    return "\n".join(lines)


def _describe_interval(scores: CaptionScores, metric: str) -> str:
    if metric not in scores.intervals:
        return ""
    low, high = scores.intervals[metric]
    return f"   [{100 * low:.2f}, {100 * high:.2f}] in 95 %"


def save_scores(scores: CaptionScores, out: Path, split: str | None) -> None:
    """Writes scores.json, whole or not at all: fractions by metric, what was scored, CIDEr by video."""
    content = {
        **scores.scores,
        **({"intervals": scores.intervals} if scores.intervals else {}),
        "split": split,
        "videos": scores.videos,
        "references": scores.references,
        "tokenizer": scores.tokenizer,
        "missing": scores.missing,
        "unpredicted": scores.unpredicted,
        "per_video": {video: {"CIDEr": value} for video, value in scores.per_video.items()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
