"""Where the numbers of a run go: metrics.jsonl, the picture of them, and a tracker if one was asked for."""

from __future__ import annotations

import time
from typing import Any

from clipcap_video.errors import ClipcapError
from clipcap_video.training.curves import CURVES, draw_curves
from clipcap_video.training.state import MetricsLog

PROJECT = "clipcap-video"
# Where the package is called other than the tracker.
DISTRIBUTIONS = {"comet_ml": "comet-ml"}


def check_tracker(name: str | None) -> None:
    """Raises ClipcapError unless accelerate knows the tracker and it is installed. None is no tracker."""
    if name is None:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name not in known:
        raise ClipcapError(f"unknown tracker {name!r}; use one of {', '.join(known)}")
    if name not in map(str, get_available_trackers()):
        raise ClipcapError(
            f"--track {name} needs the package {DISTRIBUTIONS.get(name, name)}, which is not installed; "
            f"run pip install {DISTRIBUTIONS.get(name, name)}, or leave out --track"
        )


class RunLog:
    """One for each run, in its main process. config: its options; resume_at: as for MetricsLog."""

    def __init__(self, config: Any, accelerator: Any, resume_at: int | None) -> None:
        self._metrics = MetricsLog(config.out_dir / "metrics.jsonl", resume_at)
        self._picture = config.out_dir / CURVES
        self._draw_after = 0.0
        self._news = True
        self._accelerator = accelerator
        if config.track is not None:
            # TensorBoard drops what a run that was stopped had written beyond the place where it resumes.
            extra = {} if resume_at is None else {"tensorboard": {"purge_step": resume_at + 1}}
            options = {
                name: ", ".join(value) if isinstance(value, list) else "" if value is None else value
                for name, value in config.to_json().items()
            }
            accelerator.init_trackers(PROJECT, options, extra)

    def write(self, **values: Any) -> None:
        """One line; its numbers also go to the tracker. values: `step` among them."""
        self._metrics.write(**values)
        self._news = True
        numbers = {name: value for name, value in values.items() if name != "step" and isinstance(value, int | float)}
        for tracker in self._accelerator.trackers:
            tracker.log(numbers, step=values["step"])

    def draw(self, last: bool = False) -> None:
        """The picture of all so far. Unless it is the last one, it is put off where drawing would take a twentieth
        of the run's time."""
        now = time.monotonic()
        if self._news and (last or now >= self._draw_after):
            self._news = False
            draw_curves(self._metrics.file, self._picture)
            done = time.monotonic()
            self._draw_after = done + 20 * (done - now)

    def close(self) -> None:
        self.draw(last=True)
        for tracker in self._accelerator.trackers:
            tracker.finish()
