"""A hub that cannot be reached is asked once."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from clipcap_video import network
from clipcap_video.errors import ClipcapError
from clipcap_video.models.language_model import load_language_model


def test_one_attempt_and_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back afterwards
    monkeypatch.setattr(network, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    network.try_hub_once.cache_clear()
    for _ in range(2):
        with pytest.raises(ClipcapError, match="cannot read the language model no-such-model"):
            load_language_model("no-such-model")
    assert len(asked) == 1
    assert constants.HF_HUB_OFFLINE
    assert capfd.readouterr().err == ""
    network.try_hub_once.cache_clear()
