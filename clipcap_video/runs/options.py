"""A dataclass field is an option: its help, its least value and whether a resumed run may change it stand beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError


def option(default: Any, help: str, **extra: Any) -> Any:
    """A dataclass field with the text that `--help` shows for it. A default of MISSING makes the option required.

    once=True: the option belongs to one call of the command; no record of the run keeps it. made=True: a file that the
    command writes. least: smaller values are refused. panel, metavar: for `--help`. argument=True: a bare word.
    """
    metadata = {"help": help, **extra}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# Options that a resumed run may change.
FREE = {
    "data", "caption", "out_dir", "device", "prefix", "save_every", "eval_every", "resume", "cross", "max_minutes",
    "eval_beam_size", "videos", "encoder_weights", "workers", "track", "dry_run",
}  # fmt: skip


@dataclass
class RunConfig:
    """What the options of every kind of training run have in common."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the checkpoint."""
        return options_of(self)

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Names of options that change the result and differ from those of a saved run."""
        mine = self.to_json()
        names = [item.name for item in fields(self) if item.name not in FREE]
        return [name for name in names if name in saved and saved[name] != mine[name]]


def check_least(config: RunConfig, **least: float) -> None:
    """Raises ClipcapError for an option below the least value that makes sense."""
    for name, value in least.items():
        if not getattr(config, name) >= value:
            raise ClipcapError(f"--{name} must be at least {value}, not {getattr(config, name)}")


def check_prefix(prefix: str) -> None:
    """Raises ClipcapError for a --prefix that cannot begin the names of checkpoints."""
    if not prefix or "/" in prefix or prefix.startswith("."):
        raise ClipcapError(f"--prefix {prefix!r} cannot name a folder; use letters, digits and _")


def options_of(config: Any) -> dict[str, Any]:
    """The options of a run as plain values; those that belong to one call of the command alone are left out.

    Paths are absolute, so that they hold in any working folder.
    """
    values = asdict(config)
    return {item.name: plain_value(values[item.name]) for item in fields(config) if not item.metadata.get("once")}


def plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    return [plain_value(item) for item in value] if isinstance(value, list | tuple) else value
