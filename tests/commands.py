"""Commands run in this process, and what they leave."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipcap_video import stopping

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object, cwd: Path = ROOT) -> Done:
    """Runs `python SCRIPT ...` or `clipcap-video ...` in this process, where torch is loaded already."""
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", words)
        patch.setattr(stopping, "end_at_signals", lambda: None)  # it would end the tests
        try:
            if words[0] == "clipcap-video":
                runpy.run_module("clipcap_video", run_name="__main__")
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
    return Done(status if isinstance(status, int) else 1 if status else 0, out.getvalue(), err.getvalue())


def refused(*arguments: object, cwd: Path = ROOT) -> str:
    """The one sentence that a command prints before it stops with a non-zero status."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode not in (0, 130), done.stdout
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def predictions(file: Path) -> dict[str, list[dict]]:
    return {entry["video"]: entry["captions"] for entry in json.loads(file.read_text())["predictions"]}
