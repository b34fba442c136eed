"""The commands as a user types them, on clips and models that the tests make."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clipcap_video.captioning.predictions import Prediction
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics import java
from tests.cli.conftest import Project
from tests.commands import ROOT, run


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official Java programs take seconds to start; tests/metrics/test_captioning.py runs them."""
    monkeypatch.setattr(java, "java_runs", lambda: False)


def test_the_library_needs_three_lines(project: Project) -> None:
    from clipcap_video import Captioner

    captioner = Captioner.from_pretrained(project.out, device="cpu")
    videos = [project.videos / "video5.mp4", project.videos / "video2.mp4"]
    one, both = captioner.caption(videos[0]), captioner.caption(videos)
    assert isinstance(one, Prediction)
    assert isinstance(both, list)
    assert [prediction.video for prediction in both] == ["video5", "video2"]
    assert both[0].text == one.text != ""
    with pytest.raises(ClipcapError, match=r"video6\.mp4"):
        captioner.caption(project.videos / "video6.mp4")


@pytest.mark.parametrize(
    "command",
    [
        ["extract_features.py"], ["train_vtt.py"], ["inference_vtt.py"], ["-m", "clipcap_video"],
        ["-m", "clipcap_video", "evaluate"], ["-m", "clipcap_video", "new-lm"], ["-m", "clipcap_video", "demo"],
        ["-m", "clipcap_video", "convert"], ["-m", "clipcap_video", "report"], ["-m", "clipcap_video", "doctor"],
    ],
)  # fmt: skip
def test_help_does_not_wait_for_torch(command: list[str]) -> None:
    code = f"""
import runpy, sys
sys.argv = {[*command, "--help"]!r}
try:
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = sorted({{"torch", "transformers", "cv2", "numpy", "yaml", "matplotlib"}} & sys.modules.keys())
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_unknown_option_values_are_usage_errors() -> None:
    for command in (["train_vtt.py", "--mapping_type", "lstm"], ["extract_features.py", "--sampling", "middle"]):
        done = run(*command)
        assert done.returncode == 2
        assert command[2] in done.stderr
        assert "Traceback" not in done.stderr
    assert run("train_vtt.py", "--no_such_option", "1").returncode == 2
