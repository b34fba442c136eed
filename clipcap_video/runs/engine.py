"""The options of commands that an engine can spread over many machines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from clipcap_video.errors import ClipcapError
from clipcap_video.runs.options import ANY, Part, option

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
    shard: str | None = _engine(
        None,
        "Do a share of the videos: 3/16 is the third of sixteen. Runs of all shares, at any time and on any machine, "
        "may have one --out.",
        once=True, needs={"videos": ANY}, unless={"format": "hdf5"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.share  # noqa: B018  (refused before any work)

    @property
    def share(self) -> Shard | None:
        """Which share of the videos is to be done; None for all."""
        return None if self.shard is None else Shard.from_text(self.shard)


@dataclass(frozen=True)
class Shard:
    """One of `count` runs that share the videos, and perhaps the folder, between them. number: from 1 to count."""

    number: int
    count: int

    @classmethod
    def from_text(cls, text: str) -> Shard:
        """Reads "3/16". Raises ClipcapError for anything that is no such share."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ClipcapError(
                f"--shard {text!r} is no share of the videos; give NUMBER/COUNT, such as 3/16, NUMBER from 1 to COUNT"
            )
        return cls(int(found[1]), int(found[2]))

    def of(self, videos: Mapping[str, Path]) -> dict[str, Path]:
        """Every `count`-th of the videos (id -> path), from the `number`-th on."""
        return dict(islice(videos.items(), self.number - 1, None, self.count))

    def part_of(self, name: str) -> str:
        """The name of this share's part of a log."""
        stem, _, suffix = name.partition(".")
        return f"{stem}.{self.number}-of-{self.count}.{suffix}"
