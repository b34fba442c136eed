"""Captions posted as they come: in order, without waiting, every failure counted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clipcap_video.captioning import webhook
from clipcap_video.captioning.webhook import Webhook
from clipcap_video.errors import ClipcapError


class Receiver(ThreadingHTTPServer):
    """Answers with `statuses`, one after the other, then with 204; keeps what it took."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.taken: list[object] = []
        self.seconds = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/captions"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.headers["content-type"] == "application/json"
        time.sleep(self.server.seconds)
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        if status < 300:
            self.server.taken.append(body)
        self.send_response(status)
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def send(receiver: Receiver, count: int) -> Webhook:
    with Webhook(receiver.url) as hook:
        for number in range(count):
            hook.send({"caption": f"ein Hund läuft {number}"})
        deadline = time.monotonic() + 5
        while hook.sent + hook.failed < count and time.monotonic() < deadline:
            time.sleep(0.01)
    return hook


def test_each_is_posted_once_and_in_order(receiver: Receiver) -> None:
    hook = send(receiver, 5)
    assert receiver.taken == [{"caption": f"ein Hund läuft {number}"} for number in range(5)]
    assert str(hook) == "webhook: 5 sent"


def test_a_refusal_is_tried_again_then_counted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSE", 0.01)
    receiver.statuses = [500, 503, 200, 500, 500, 500]
    hook = send(receiver, 3)
    assert receiver.taken == [{"caption": f"ein Hund läuft {number}"} for number in (0, 2)]
    assert str(hook) == "webhook: 2 sent, 1 not (HTTP 500)"


def test_a_redirect_is_no_success(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "ATTEMPTS", 1)
    receiver.statuses = [302]
    assert str(send(receiver, 1)) == "webhook: 0 sent, 1 not (HTTP 302)"


def test_a_slow_receiver_holds_nobody_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "MOST_WAITING", 2)
    monkeypatch.setattr(webhook, "LAST_SECONDS", 0.2)
    receiver.seconds = 1.0
    began = time.monotonic()
    with Webhook(receiver.url) as hook:
        for number in range(10):
            hook.send({"number": number})
        assert time.monotonic() - began < 0.5
    assert time.monotonic() - began < 1
    assert hook.sent == 0
    assert 9 <= hook.failed <= 10  # one is on its way


def test_nobody_there_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "ATTEMPTS", 1)
    with Webhook("http://127.0.0.1:9/") as hook:
        hook.send({})
        while not hook.failed:
            time.sleep(0.01)
    assert "Connection refused" in str(hook)


@pytest.mark.parametrize("address", ["captions", "ftp://there/x", "http://"])
def test_what_is_no_web_address_is_refused(address: str) -> None:
    with pytest.raises(ClipcapError, match="no web address"):
        Webhook(address)
