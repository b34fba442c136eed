"""Things of one kind by name, which options choose among. A new one is one entry, here or from another program."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

from clipcap_video.errors import ClipcapError


def load_object(place: Any) -> Any:
    """What "module:name" names; anything but a text is itself."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Registry(MutableMapping[str, Any]):
    """name -> thing. What is given as "module:name" is imported when it is first asked for, not for a list of names.

    kind: what they are, for messages.
    """

    def __init__(self, kind: str, entries: dict[str, Any]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        self._entries[name] = load_object(self._entries[name])
        return self._entries[name]

    def find(self, name: str) -> Any:
        """As `registry[name]`. Raises ClipcapError for an unknown name."""
        if name not in self._entries:
            raise ClipcapError(f"unknown {self.kind} {name!r}; use one of {', '.join(self)}")
        return self[name]

    def __setitem__(self, name: str, thing: Any) -> None:
        self._entries[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
