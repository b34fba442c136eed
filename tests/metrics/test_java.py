"""The official programs in Java, and machines without it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics import java
from clipcap_video.metrics.captioning import (
    score_captions,
)
from tests.metrics.test_captioning import needs_java


@needs_java
def test_java_gives_one_line_a_caption_whatever_it_holds() -> None:
    captions = ["", "a\nb", "c\r\nd", "e\u2028f", "a ||| b", "", "x\x85y\x1cz", "😀 g", "A dog's ball.", ""]
    assert java.tokenize(captions) == [
        "",
        "a b",
        "c d",
        "e f",
        "a | | | b",
        "",
        "x y z",
        "g",
        "a dog 's ball",
        "",
    ]


@needs_java
def test_java_tokenizer_is_that_of_pycocoevalcap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The original writes into its own folder; here it gets a copy that may be written to.
    original = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    jar = Path(original.__file__).parent / original.STANFORD_CORENLP_3_4_1_JAR
    (tmp_path / jar.name).symlink_to(jar)
    monkeypatch.setattr(original, "__file__", str(tmp_path / "ptbtokenizer.py"))
    lines = ["A man, 5'6\" tall, can't run.", "It's (really) rock & roll!", 'a well-known "star"']
    expected = original.PTBTokenizer().tokenize({0: [{"caption": line} for line in lines]})[0]
    assert java.tokenize(lines) == expected


# --- Java's presence ------------------------------------------------------------------------------------------


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a shell script of the given body on the path as the only `java`."""

    def install(body: str) -> None:
        program = tmp_path / "java"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        java.java_runs.cache_clear()

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin:/bin")
    java.java_runs.cache_clear()
    yield install
    java.java_runs.cache_clear()


def test_without_java_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    java.java_runs.cache_clear()
    try:
        assert score_captions({"a": "x"}, {"a": ["x"]}).missing == ["METEOR"]
        with pytest.raises(ClipcapError, match="Java does not run here"):
            score_captions({"a": "x"}, {"a": ["x"]}, java=True)
    finally:
        java.java_runs.cache_clear()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for Java is a shell script")
def test_a_java_that_only_says_where_to_download_one(fake_java: Callable[[str], None]) -> None:
    fake_java("echo 'Unable to locate a Java Runtime' >&2; exit 1")
    assert score_captions({"a": "x"}, {"a": ["x"]}).tokenizer == "python"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for Java is a shell script")
def test_a_java_that_breaks_off_is_reported(fake_java: Callable[[str], None]) -> None:
    fake_java("echo 'Could not reserve enough space' >&2; [ \"$1\" = -version ]")
    with pytest.raises(ClipcapError, match=r"the Java tokenizer failed .*Could not reserve enough space"):
        java.tokenize(["a"])
    with pytest.raises(ClipcapError, match="METEOR's Java program ended"):
        java.meteor({"a": ["x"]}, {"a": ["x"]})


@pytest.mark.slow
@needs_java
def test_meteor_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def remember(*args, **kwargs) -> subprocess.Popen[str]:
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    assert java.meteor({"a": ["a dog runs"]}, {"a": ["a dog runs"]})[0] > 0.9
    assert len(started) == 1
    assert started[0].returncode is not None
