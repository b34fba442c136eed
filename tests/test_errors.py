"""Errors as one sentence: what the system or a parser says, with where and what to do."""

from __future__ import annotations

import errno
import json

import pytest

from clipcap_video.errors import ClipcapError, first_line, parsing, told_of


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out/p.json"),
            "no room left to write out/p.json (No space left on device); free some, and give the same command again: "
            "what is finished is kept",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/videos/x"),
            "cannot use /videos/x (Permission denied); check the path and its rights",
        ),
        (OSError("the pipe broke.\nat line 3"), "cannot use a file (the pipe broke); check the path and its rights"),
        (OSError(), "cannot use a file (OSError); check the path and its rights"),
    ],
)
def test_what_the_system_says_of_a_file(error: OSError, sentence: str) -> None:
    assert str(told_of(error)) == sentence


def test_an_entry_that_cannot_be_parsed_is_one_sentence() -> None:
    for broken, reason in (
        (lambda: {}["caption"], "lacks the field 'caption'"),
        (lambda: int("x"), "is malformed (invalid literal for int() with base 10: 'x')"),
        (lambda: json.loads("{\n"), "is malformed (Expecting property name"),
    ):
        with pytest.raises(ClipcapError) as caught, parsing("a.json: entry 3", "give it its fields"):
            broken()
        said = str(caught.value)
        assert said.startswith(f"a.json: entry 3 {reason}")
        assert said.endswith("; give it its fields")
        assert "\n" not in said
        assert caught.value.__suppress_context__


def test_a_sentence_of_ours_and_an_interruption_pass_as_they_are() -> None:
    ours = ClipcapError("ours")
    for error in (ours, KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, parsing("here", "do that"):
            raise error
        assert caught.value is error


def test_the_first_line_of_what_an_exception_says() -> None:
    assert first_line(ValueError("  wrong.\nmore  ")) == "wrong"
    assert first_line(ValueError(" \n ")) == "ValueError"
