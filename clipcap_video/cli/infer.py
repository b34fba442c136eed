"""`inference_vtt.py` and `clipcap-video infer`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from clipcap_video.captioning.config import InferConfig, chosen_settings
from clipcap_video.cli.command import Command

if TYPE_CHECKING:
    from clipcap_video.captioning.captioner import Captioner, CaptionFiles


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
    captioned = infer(config, settings, partial(_with_ray, config) if config.engine == "ray" else None)
    if config.report is not None and captioned.predictions:
        report_predictions(
            captioned.predictions, config.report, captioned.details, captioned.records, cider=captioned.cider
        )
        print(f"page: {config.report}")
    if captioned.failed:
        sys.exit(1)


def _with_ray(config: InferConfig, captioner: Captioner) -> CaptionFiles:
    from clipcap_video.captioning.run import legacy_choices
    from clipcap_video.scale.ray_data import caption_with_ray

    return caption_with_ray(
        config, captioner, model_dir=captioner.source, lm=config.lm, encoder=config.encoder,
        weights=config.encoder_weights, legacy=legacy_choices(config), precision=config.precision, device=config.device,
    )  # fmt: skip


caption_videos = Command(InferConfig, _infer, "infer")
