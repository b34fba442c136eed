"""`inference_vtt.py` and `clipcap-video infer`."""

from __future__ import annotations

import sys

from clipcap_video.captioning.config import InferConfig, chosen_settings
from clipcap_video.cli.command import Command


def _infer(config: InferConfig) -> None:
    """Caption videos, or stored features of videos.

    The checkpoint knows its own architecture, encoder and frame sampling. Captions go to
    predictions.json; with references, the official scores go to scores.json beside it. predictions.run.yaml repeats
    the run.

    Examples:
      clipcap-video infer clip.mp4
      clipcap-video infer clips/ --to txt --to parquet --report page.html
      clipcap-video infer --model_dir out/ --features features/ --annotations captions.csv
    """
    from clipcap_video.captioning.plan import plan_inference
    from clipcap_video.captioning.run import infer
    from clipcap_video.report.entries import report_predictions

    settings = chosen_settings(config)
    if config.dry_run:
        print(plan_inference(config, settings).describe())
        return
    captioned = infer(config, settings)
    if config.report is not None and captioned.predictions:
        report_predictions(
            captioned.predictions, config.report, captioned.details, captioned.records, cider=captioned.cider
        )
        print(f"page: {config.report}")
    if captioned.failed:
        sys.exit(1)


caption_videos = Command(InferConfig, _infer, "infer")
