"""`clipcap-video train-retrieval` and `clipcap-video evaluate-retrieval`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from clipcap_video.cli.command import command_of
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.runs.options import option


def _train(config: RetrievalTrainConfig) -> None:
    """Train a model that finds videos by text, after CLIP4Clip.

    With --data it learns on stored features beside a frozen text encoder; with --videos it trains CLIP itself, from
    frames. Leaves the checkpoints OUT_DIR/best and OUT_DIR/last, and OUT_DIR/metrics.jsonl. Ctrl-C saves; --resume
    continues.
    """
    from clipcap_video.retrieval.train import train_retrieval as train

    summary = train(config)
    if not summary.finished:
        print(f"stopped after {summary.steps} steps; continue with --resume")
        sys.exit(130)
    score = "" if summary.best_score is None else f" (validation R@1 + R@5 + R@10: {summary.best_score:.1f})"
    print(f"trained {summary.steps} steps; best checkpoint: {summary.best_checkpoint}{score}")


train_retrieval = command_of(RetrievalTrainConfig, _train, "train-retrieval")


@dataclass
class RetrievalEvaluationConfig:
    """Options of `clipcap-video evaluate-retrieval`."""

    model_dir: Path = option(Path("out_retrieval"), "A retrieval model: the out_dir of a run, or a checkpoint.")
    data: Path | None = option(None, "Stored features. Unless given, those that the model was trained on.")
    videos: list[Path] | None = option(
        None, "Videos, for a model that was trained on videos. Unless given, those that it was trained on."
    )
    caption: list[Path] | None = option(None, "Annotations. Unless given, those that the model was trained on.")
    split: str = option("test", "Split to score.")
    first_caption: bool = option(
        False,
        "Only the first caption of each video is a query, as in MSR-VTT 1k-A; otherwise all are. Always so with "
        "tightTransf, which reads each pair of text and video anew.",
    )
    out: Path | None = option(None, "File for the scores; retrieval_SPLIT.json in MODEL_DIR unless given.", made=True)
    workers: int = option(2, "Threads that decode videos.")
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")


def _evaluate(config: RetrievalEvaluationConfig) -> Path:
    """Score how well texts find their videos, and videos their texts.

    Prints R@1, R@5, R@10, median and mean rank both ways, beside what guessing gives.
    """
    from clipcap_video.retrieval.evaluate import evaluate_checkpoint

    scores = evaluate_checkpoint(config)
    out = config.out or config.model_dir / f"retrieval_{config.split}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(scores.to_json(), indent=2) + "\n", encoding="utf-8")
    print(scores.table())
    print(f"written to {out}")
    return out


evaluate_retrieval = command_of(RetrievalEvaluationConfig, _evaluate, "evaluate-retrieval")
