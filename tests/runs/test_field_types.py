"""Fields of a dataclass against the types that they are declared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from clipcap_video.runs.field_types import check_types


@dataclass
class Inner:
    size: int = 1


@dataclass
class Config:
    rate: float = 0.1
    count: int | None = None
    mode: Literal["a", "b"] = "a"
    on: bool = False
    names: list[str] = field(default_factory=list)
    place: Path | str = "here"
    anything: Any = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    "values",
    [{}, {"rate": 3}, {"count": 2}, {"mode": "b"}, {"place": Path("x")}, {"anything": {}}, {"inner": Inner(5)}],
)
def test_what_fits_passes(values: dict[str, Any]) -> None:
    check_types(Config(**values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": "fast"}, "the field rate is 'fast'"),
        ({"count": 2.0}, r"the field count is 2\.0"),
        ({"count": True}, "the field count is True"),  # no number, though Python counts with it
        ({"on": 1}, "the field on is 1"),
        ({"mode": "c"}, "the field mode is 'c'"),
        ({"names": "a"}, "the field names is 'a'"),
        ({"place": None}, "the field place is None"),
        ({"inner": Inner("large")}, r"the field inner\.size is 'large'"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        check_types(Config(**values))
