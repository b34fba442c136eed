from __future__ import annotations

import ast
import ctypes
import os
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest
import torch

import clipcap_video
from clipcap_video.devices import (
    autocast,
    has_fast_bf16,
    keep_freed_memory,
    one_thread_each,
    pick_device,
    pick_precision,
)
from clipcap_video.errors import ClipcapError

CPU = torch.device("cpu")


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"


def test_absent_and_unknown_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1").index == 1
    for name, match in (("cuda:2", "not present"), ("toaster", "unknown device"), ("meta", "unknown device")):
        with pytest.raises(ClipcapError, match=match):
            pick_device(name)


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_precision(CPU, "fp32") == "fp32"
    assert pick_precision(CPU, "auto") == ("bf16" if has_fast_bf16(CPU) else "fp32")
    with pytest.raises(ClipcapError, match="unknown precision 'fp8'"):
        pick_precision(CPU, "fp8")


def test_autocast_runs_products_in_bf16() -> None:
    x = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (x @ x).dtype == torch.float32


def test_nothing_else_names_a_device() -> None:
    """No string "cuda" or "mps" in the code of any other module (help texts say CUDA, in capitals)."""
    package = Path(clipcap_video.__file__).parent
    named = []
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and file.name != "devices.py":
                named += [f"{file.name}:{node.lineno}" for word in ("cuda", "mps") if word in node.value.split()]
            if isinstance(node, ast.Attribute) and node.attr in ("cuda", "mps") and file.name != "devices.py":
                named.append(f"{file.name}:{node.lineno}")
    assert named == []


def test_a_thread_that_computes_alone_stays_alone() -> None:
    """Also when the number of its process is set after its own, before it has computed anything."""
    before = torch.get_num_threads()
    told, go_on = threading.Event(), threading.Event()
    found: list[int] = []

    def work() -> None:
        one_thread_each()
        told.set()
        go_on.wait(10)
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    try:
        thread.start()
        told.wait(10)
        torch.set_num_threads(2)
        go_on.set()
        thread.join(10)
    finally:
        torch.set_num_threads(before)
    assert found == [1]


@pytest.mark.parametrize(("environment", "calls"), [({}, 4), ({"MALLOC_ARENA_MAX": "1"}, 0)])
def test_freed_memory_is_kept_unless_the_user_said_how(
    environment: dict[str, str], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    library = mock.Mock()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory.__wrapped__()
    assert library.mallopt.call_count == calls
