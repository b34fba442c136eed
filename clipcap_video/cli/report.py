"""`clipcap-video report`."""

from __future__ import annotations

import sys

from clipcap_video.cli.command import Command
from clipcap_video.report.config import ReportConfig


def _report(config: ReportConfig) -> None:
    """Make a page of captions: one file that asks for nothing from anywhere.

    It shows the frames with their times, all captions of each video with their confidence, references and CIDEr where
    annotations are given, and how much each frame mattered for the caption where features are; to be sorted, filtered
    and searched.

    Examples:
      clipcap-video report predictions.json --out page.html
      clipcap-video report predictions.json --features features/ --annotations captions.csv
    """
    from clipcap_video.report.run import make_page

    for note in make_page(config):
        print(note, file=sys.stderr)
    print(f"page: {config.out} ({config.out.stat().st_size / 1e6:.1f} MB)")


report = Command(ReportConfig, _report, "report", records=True)
