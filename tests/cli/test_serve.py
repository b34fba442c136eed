"""What `clipcap-video serve` refuses before it listens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands import refused


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'clipcap-video[web]'" in refused("clipcap-video", "serve", "--device", "cpu")


def test_ports_and_limits_that_make_no_sense_are_refused() -> None:
    assert "--port" in refused("clipcap-video", "serve", "--port", "0")
    assert "--max_mb" in refused("clipcap-video", "serve", "--max_mb", "0")


def test_without_fastapi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "clipcap_video.web.api", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'clipcap-video[web]'" in refused("clipcap-video", "serve", "--api", "--device", "cpu")


def test_options_of_the_endpoint_alone(tmp_path: Path) -> None:
    assert "--api" in refused("clipcap-video", "serve", "--root", str(tmp_path))
    assert "--api_key is empty" in refused("clipcap-video", "serve", "--api", "--api_key", "")
