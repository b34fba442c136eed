"""`clipcap-video train-retrieval` and `clipcap-video evaluate-retrieval`."""

from __future__ import annotations

import json
import sys

from clipcap_video.cli.command import Command
from clipcap_video.files import write_text
from clipcap_video.retrieval.config import RetrievalEvaluationConfig, RetrievalTrainConfig


def _train(config: RetrievalTrainConfig) -> None:
    """Train a model that finds videos by text, after CLIP4Clip.

    With --features it learns on stored features beside a frozen text encoder; with --videos it trains CLIP itself, from
    frames. Leaves the checkpoints OUT/best and OUT/last, and OUT/metrics.jsonl. Ctrl-C saves; --resume
    continues.

    Examples:
      clipcap-video train-retrieval --features features/ --annotations captions.csv --out found/
      clipcap-video train-retrieval --features features/ --annotations captions.csv --out found/ --dry_run
    """
    from clipcap_video.retrieval.plan import plan_retrieval
    from clipcap_video.retrieval.train import train_retrieval as train

    if config.dry_run:
        print(plan_retrieval(config).describe())
        return
    summary = train(config)
    if not summary.finished:
        print(f"stopped after {summary.steps} steps; continue with --resume")
        sys.exit(130)
    score = "" if summary.best_score is None else f" (validation R@1 + R@5 + R@10: {summary.best_score:.1f})"
    print(f"trained {summary.steps} steps; best checkpoint: {summary.best_checkpoint}{score}")


train_retrieval = Command(RetrievalTrainConfig, _train, "train-retrieval")


def _evaluate(config: RetrievalEvaluationConfig) -> None:
    """Score how well texts find their videos, and videos their texts.

    Prints R@1, R@5, R@10, median and mean rank both ways, beside what guessing gives.

    Examples:
      clipcap-video evaluate-retrieval --model_dir found/
    """
    from clipcap_video.retrieval.evaluate import evaluate_checkpoint

    scores = evaluate_checkpoint(config)
    assert config.out is not None
    out = write_text(config.out, json.dumps(scores.to_json(), indent=2) + "\n", "choose another --out")
    print(scores.table())
    print(f"written to {out}")


evaluate_retrieval = Command(RetrievalEvaluationConfig, _evaluate, "evaluate-retrieval", records=True)
