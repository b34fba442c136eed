"""The PTB tokenizer against Java's."""

from __future__ import annotations

import json

import pytest

from clipcap_video.metrics import java
from clipcap_video.metrics.ptb import tokenize
from tests.metrics.conftest import DATA
from tests.metrics.test_captioning import needs_java

# --- tokenising -----------------------------------------------------------------------------------------------


def test_python_tokens_are_those_recorded_from_java() -> None:
    recorded = json.loads((DATA / "ptb_lines.json").read_text(encoding="utf-8"))["lines"]
    assert len(recorded) > 300
    differing = [(line, tokenize(line), tokens) for line, tokens in recorded if tokenize(line) != tokens]
    assert differing == []


@pytest.mark.slow
@needs_java
def test_python_tokens_are_those_of_java_on_whole_corpus(magic: dict[str, dict[str, list[str]]]) -> None:
    lines = [line for captions in magic["references"].values() for line in captions]
    lines += magic["predictions"].values()  # type: ignore[arg-type]
    assert [tokenize(line) for line in lines] == java.tokenize(lines)


@pytest.mark.parametrize("line", ["", "  ", "...", "\" ' - !", "\n\t", "😀"])
def test_lines_without_words(line: str) -> None:
    assert tokenize(line) == ""


def test_tokenising_tokens_changes_nothing() -> None:
    recorded = json.loads((DATA / "ptb_lines.json").read_text(encoding="utf-8"))["lines"]
    plain = [tokens for _, tokens in recorded if tokens.replace(" ", "").isalnum()]
    assert len(plain) > 50
    assert [tokenize(tokens) for tokens in plain] == plain
