"""`train_vtt.py` and `clipcap-video train`."""

from __future__ import annotations

import sys

from clipcap_video.cli.command import Command
from clipcap_video.training.config import TrainConfig


def _train(config: TrainConfig) -> None:
    """Train a captioner on frame features and captions.

    Needs the features that extract_features.py wrote and an annotation file. Leaves the checkpoints OUT/best,
    OUT/last and OUT/PREFIX-EPOCH, OUT/metrics.jsonl with its picture curves.png, and OUT/run.yaml,
    which repeats the run. Ctrl-C saves; --resume continues.

    Examples:
      clipcap-video train --features features/ --annotations captions.csv --out out/ --only_prefix
      clipcap-video train --config out/run.yaml --resume
    """
    from clipcap_video.training.plan import plan_training
    from clipcap_video.training.run import train

    if config.dry_run:
        print(plan_training(config).describe())
        return
    summary = train(config)
    if not summary.finished:
        print(f"stopped after {summary.steps} steps; continue with --resume")
        sys.exit(130)
    score = "" if summary.best_score is None else f" (validation {config.best_by} {summary.best_score:.3f})"
    print(f"trained {summary.steps} steps; best checkpoint: {summary.best_checkpoint}{score}")


train_captioner = Command(TrainConfig, _train, "train")
