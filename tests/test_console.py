"""How much a command says, by -q and -v."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from clipcap_video import console


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    yield
    console.set_level(console.USUAL)


@pytest.mark.parametrize(
    ("level", "said"), [(console.QUIET, []), (console.USUAL, ["a line"]), (console.VERBOSE, ["a line", "a detail"])]
)
def test_lines_go_to_stderr_by_the_level(level: int, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    console.set_level(level)
    console.say("a line")
    console.detail("a detail")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [re.sub(r"^\[ *\d+\.\d\d s\] ", "", line) for line in printed.err.splitlines()] == said


def test_bars_are_for_who_looks_and_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        assert console.hides_bars() == (not terminal)
        assert console.hides_bars(wanted=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console.set_level(console.QUIET)
    assert console.hides_bars()
