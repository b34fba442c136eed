"""The options of commands that an engine can spread over many machines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from clipcap_video.runs.options import Part, option

_engine = partial(option, panel="Engine")


@dataclass
class EngineOptions(Part):
    """What runs the work."""

    engine: Literal["here", "ray"] = _engine(
        "here", "ray: many processes and machines, by Ray Data; pip install 'clipcap-video[ray]'."
    )
    ray_address: str | None = _engine(
        None,
        "The Ray cluster: auto for the one that this machine belongs to, or HOST:PORT; one on this machine unless "
        "given, started for the run.",
        needs={"engine": "ray"},
    )
    actors: int | None = _engine(
        None, "Processes that have a model each; as many as there is room for unless given.", least=1,
        needs={"engine": "ray"},
    )  # fmt: skip
    gpus_per_actor: float | None = _engine(
        None, "GPUs of a process, 0.5 for two on one; 1 where the cluster has some.", least=0,
        needs={"engine": "ray"},
    )  # fmt: skip
