"""Whether the fields of a dataclass, read from a file, are of the types that it declares."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_types(config: Any, where: str = "") -> None:
    """Raises TypeError for a field of a dataclass that is of another type than it is declared with."""
    for item in fields(config):
        value, hint = getattr(config, item.name), get_type_hints(type(config))[item.name]
        if is_dataclass(value):
            check_types(value, f"{where}{item.name}.")
        elif not _is_of(value, hint):
            raise TypeError(f"the field {where}{item.name} is {value!r}")


def _is_of(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_of(value, kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kind = get_origin(hint) or hint
    if kind is Any or not isinstance(kind, type):
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
