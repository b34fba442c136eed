"""What is let through to the page."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clipcap_video import console
from clipcap_video.web.guard import LARGEST_CALL, Guard
from tests.web.test_page import page  # noqa: F401  (a fixture)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"]
    if body == b"full":
        raise OSError(errno.ENOSPC, "No space left on device", "upload")
    if body == b"raise":
        raise KeyError("no such function")
    await send({"type": "http.response.start", "status": 500 if body == b"break" else 200, "headers": []})
    await send({"type": "http.response.body", "body": b"Traceback" if body == b"break" else b"page"})


def call(headers: Sequence[tuple[str, str]], body: bytes = b"", names: tuple[str, ...] = ()) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": "POST", "path": "/call", "headers": encoded}
    asyncio.run(Guard(_app, names)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "192.168.1.7", "box:7860"])
def test_its_own_names_and_all_addresses_are_let_through(host: str) -> None:
    assert call([("host", host)], names=("Box",)) == (200, b"page")
    assert call([("host", host), ("origin", f"http://{host}")], names=("Box",)) == (200, b"page")


@pytest.mark.parametrize("host", ["evil.example:7860", "", "127.0.0.1.evil.example", "[::1", "localhost.evil", "\xff"])
def test_foreign_names_are_refused(host: str) -> None:
    status, said = call([("host", host)])
    assert status == 403
    assert b"open it under the address" in said


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "http://[::1"])
def test_calls_of_foreign_pages_are_refused(origin: str) -> None:
    assert call([("host", "localhost:7860"), ("origin", origin)])[0] == 403


def test_large_calls_are_refused_but_for_uploads() -> None:
    own, large = ("host", "localhost"), ("content-length", str(LARGEST_CALL + 1))
    assert call([own, large])[0] == 413
    assert call([own, large, ("content-type", "multipart/form-data; boundary=x")])[0] == 200
    assert call([own], b"x" * (LARGEST_CALL + 1))[0] == 400
    assert call([own, ("content-length", "-1")])[0] == 400


@pytest.mark.parametrize("body", [b"raise", b"break"])
def test_what_breaks_the_app_is_a_sentence_and_one_line(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = call([("host", "localhost")], body)
    assert (status, b"Traceback" in said) == (400, False)
    assert capsys.readouterr().err == "refused: POST '/call'\n"


def test_a_disk_that_is_full_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = call([("host", "localhost")], b"full")
    assert (status, b"no room left" in said, b"/tmp" in said) == (507, True, False)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_fault_of_its_own_is_whole_in_the_log_with_v(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_level", console.VERBOSE)
    status, said = call([("host", "localhost")], b"raise")
    logged = capsys.readouterr().err
    assert (status, b"Traceback" in said) == (400, False)
    assert "Traceback" in logged
    assert logged.endswith("refused: POST '/call'\n")


@pytest.mark.slow
def test_a_thousand_requests_that_make_no_sense(page: tuple[str, Path]) -> None:  # noqa: F811
    """None is answered with a fault of the server or its paths, and the page is as quick as before afterwards."""
    address = page[0].removeprefix("http://")
    chance = random.Random(0)
    # fmt: off
    paths = ["/", "/gradio_api/call/describe", "/gradio_api/run/predict", "/gradio_api/queue/join", "/config",
             "/gradio_api/queue/data", "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/info",
             "/gradio_api/file=../../etc/passwd", "/gradio_api/proxy=http://x", "/%00", "/gradio_api/heartbeat/x"]
    # fmt: on
    values: list[Any] = [None, 1, -1, 1e300, "x", "x" * 9999, [], {}, [[]], {"path": "/etc/passwd"}, True]

    def made_up() -> bytes:
        some = [chance.choice(values) for _ in range(chance.randrange(4))]
        content = {"data": some, "fn_index": chance.choice(values), "session_hash": chance.choice(values)}
        text = json.dumps(chance.choice([content, some, content | {"event_data": some}])).encode()
        return text if chance.random() < 0.8 else os.urandom(chance.randrange(200)) + text[: chance.randrange(50)]

    for _ in range(1000):
        connection = http.client.HTTPConnection(address, timeout=10)
        path, method = chance.choice(paths), chance.choice(["GET", "POST", "PUT", "DELETE", "POST"])
        kind = chance.choice(["application/json", "text/plain", "multipart/form-data; boundary=x"])
        try:
            connection.request(method, path, made_up(), {"Content-Type": kind})
            answer = connection.getresponse()
            said = b"" if "event-stream" in answer.headers.get("content-type", "") else answer.read(10_000)
        except (TimeoutError, http.client.HTTPException, OSError):
            continue
        finally:
            connection.close()
        assert answer.status < 500, (method, path, answer.status, said[:300])
        assert not re.search(rb"Traceback|root:|site-packages", said), (method, path, said[:300])
    started = time.monotonic()
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    assert time.monotonic() - started < 3
