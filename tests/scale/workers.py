"""A worker that dies at some videos, importable on the nodes of a cluster."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from clipcap_video.scale import FeatureExtractor


class Dying(FeatureExtractor):
    """Dies, as of a decoder that crashes, at every video called poison; and once at one called once, whose mark it
    leaves behind."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for path in map(Path, batch["path"]):
            mark = path.with_suffix(".died")
            if "poison" in path.name or ("once" in path.name and not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGSEGV)
        return super().__call__(batch)
