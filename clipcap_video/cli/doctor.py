"""`clipcap-video doctor`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import ANY, FILE, Options, option

# No two videos of different sources came so near, and most altered copies did: docs/runs.md has the measurement.
SIMILARITY = 0.9


@dataclass
class DoctorConfig(Options):
    """Options of `clipcap-video doctor`."""

    videos: list[Path] | None = option(None, "Videos: folders, videos, or text files of paths.", argument=True)
    caption: list[Path] | None = option(
        None, "Annotation files, as for training. May be given several times.", panel="What to look at"
    )
    data: Path | None = option(
        None, "Features: the folder from extract_features.py, or an .hdf5 file.", panel="What to look at"
    )
    model_dir: Path | None = option(None, "A checkpoint, or the folder of a run.", panel="What to look at")
    similar: bool = option(
        False,
        "Also group videos that look much the same, by their features.",
        panel="What to look at",
        needs={"data": ANY},
    )
    similarity: float = option(
        SIMILARITY,
        "Features with at least this cosine are of similar videos; higher finds less.",
        panel="Limits",
        above=0,
        most=1,
        needs={"similar": True},
    )
    json: Path | None = option(None, "Also write everything that was found to this file.", panel="Output", made=FILE)
    most: int = option(20, "Rows of the table for each kind of finding.", panel="Output", least=1)
    min_seconds: float = option(0.5, "Shorter videos are a finding.", panel="Limits", least=0)
    min_frames: int = option(2, "Videos with fewer frames are a finding.", panel="Limits", least=0)
    strict: bool = option(False, "Exit with 1 on warnings too, not on errors alone.", panel="Run")
    workers: int = option(
        0, "Videos read at once; 0 is as many as the machine has processors.", panel="Run", least=0, most=1000
    )


def _doctor(config: DoctorConfig) -> None:
    """Find broken videos, and whatever does not fit together, before a run does.

    Reads every video to its end, several at once: empty, truncated, corrupt, no video at all, the same file twice, too
    short, of variable frame rate. With --annotations also videos without captions, captions without a video, and splits
    that overlap; with --features damaged features, missing ones, and two kinds in one folder; with --model_dir a model
    that these features do not fit. Nothing is changed.

    The exit status is 0 without an error among what was found (--strict: without a warning either), 1 with one, 2 if
    the options make no sense.

    Examples:
      clipcap-video doctor clips/
      clipcap-video doctor clips/ --annotations captions.csv --features features/ --strict
      clipcap-video doctor --features features/ --similar
    """
    from clipcap_video.errors import ClipcapError

    if not (config.videos or config.caption or config.data or config.model_dir):
        raise ClipcapError("nothing to look at; name videos, or give --annotations, --features or --model_dir")
    found = _examine(config)
    if "error" in found or (found and config.strict):
        sys.exit(1)


def _examine(config: DoctorConfig) -> set[str]:
    """Examines and prints; returns how bad the findings are."""
    import os

    from clipcap_video.doctor import Limits, describe, examine

    examination = examine(
        config.videos or [],
        config.caption or [],
        config.data,
        config.model_dir,
        similarity=config.similarity if config.similar else None,
        limits=Limits(config.min_seconds, config.min_frames),
        workers=config.workers or os.cpu_count() or 1,
    )
    print(describe(examination, config.most))
    if config.json is not None:
        examination.save(config.json)
        print(f"all findings: {config.json}")
    return {finding.severity for finding in examination.findings}


# An error is not 1, which says that something was found.
doctor = Command(DoctorConfig, _doctor, "doctor", error_status=2, records=True)
