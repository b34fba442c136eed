"""Captions posted to a web address as they come, without waiting for it."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from clipcap_video.errors import first_line
from clipcap_video.network import require_web_address

MOST_WAITING = 100  # captions that wait to be sent
ANSWER_SECONDS = 10.0
ATTEMPTS, PAUSE = 3, 1.0  # seconds before the second attempt; twice as many before the third
LAST_SECONDS = 3.0  # for what waits when everything ends


class Webhook:
    """POSTs JSON objects to `url` in a thread, one at a time, in their order; a context manager.

    Each is tried ATTEMPTS times. sent, failed: how many were taken (any status from 200 to 299), and not. problem: why
    the last one was not. Raises ClipcapError for what is no address.
    """

    def __init__(self, url: str) -> None:
        require_web_address(url, "--webhook")
        self.url = url
        self.sent = self.failed = 0
        self.problem = ""
        self._opener = build_opener(_NoRedirects)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(LAST_SECONDS)
        self.failed += self._waiting.qsize()

    def send(self, content: Mapping[str, Any]) -> None:
        """Never waits: what is too much for the receiver is not sent, and counted."""
        try:
            self._waiting.put_nowait(json.dumps(content, ensure_ascii=False).encode())
        except queue.Full:
            self.failed, self.problem = self.failed + 1, "it is too slow"

    def __str__(self) -> str:
        failed = f", {self.failed} not ({self.problem or 'the end came first'})" if self.failed else ""
        return f"webhook: {self.sent} sent{failed}"

    def _work(self) -> None:
        while (body := self._waiting.get()) is not None:
            if self._deliver(body):
                self.sent += 1
            else:
                self.failed += 1

    def _deliver(self, body: bytes) -> bool:
        request = Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        for attempt in range(ATTEMPTS):
            try:
                with self._opener.open(request, timeout=ANSWER_SECONDS):
                    return True
            except HTTPError as error:
                self.problem = f"HTTP {error.code}"
                error.close()
            except Exception as error:  # whatever the network makes of it
                self.problem = first_line(getattr(error, "reason", None) or error)
            if self._ending.wait(PAUSE * 2**attempt):
                break
        return False


class _NoRedirects(HTTPRedirectHandler):
    """A POST that is redirected becomes a GET, whose body is lost: it counts as not taken."""

    def redirect_request(self, *_: Any) -> None:
        return None
