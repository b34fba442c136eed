"""What stands between the network and the page: foreign names, foreign pages, and calls that are none of the page's."""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from clipcap_video import console
from clipcap_video.errors import FULL

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LARGEST_CALL = 1_000_000  # bytes of a call that is no upload
NO_ROOM = 507  # HTTP status


def no_room(error: OSError) -> str:
    """What who uploads is told of a disk that is full; its owner reads where in the log."""
    print(f"no room left for an upload ({error.strerror}): free some of the temporary folder", file=sys.stderr)
    return "the server has no room left for this upload; try again when some is free"


class Guard:
    """ASGI middleware around `app`. names: under which the page may be asked for, beside addresses and localhost.

    largest_upload: bytes of a call that is one; any unless given. api_key: the bearer token without which only `open`
    paths are answered. as_json: refusals are {"detail": sentence}, as an endpoint's clients read them.

    A page elsewhere can have a name of its own point to this machine (DNS rebinding) and read all that is here, but the
    browser then says that name: it is refused, as are calls that a page of another origin makes. A call that the app
    cannot make sense of is answered in one sentence, and is one line of the log; -v adds the traceback.
    """

    def __init__(
        self,
        app: Any,
        names: tuple[str, ...] = (),
        *,
        largest_upload: float = math.inf,
        api_key: str | None = None,
        open: tuple[str, ...] = (),
        as_json: bool = False,
    ) -> None:
        self.app, self.names = app, {name.lower() for name in names}
        self.largest_upload, self.api_key, self.open, self.as_json = largest_upload, api_key, open, as_json

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers) or self._without_key(scope, headers)
        if refusal is not None:
            return await self._answer(scope, send, *refusal)
        await self._pass_on(scope, receive, send)

    def _refusal(self, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 403, f"this page is not {host!r}; open it under the address that it was started with"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, f"calls from pages of {origin!r} are refused"
        length = headers.get("content-length", "0")
        if not length.isdigit():
            return 400, "the content-length is no number"
        upload = headers.get("content-type", "").startswith("multipart/form-data")
        if int(length) > (self.largest_upload if upload else LARGEST_CALL):
            remedy = "start the server with a higher --max_mb" if upload else "upload videos as multipart/form-data"
            return 413, f"a call may have {self.largest_upload if upload else LARGEST_CALL:,} bytes; {remedy}"
        return None

    def _without_key(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        if self.api_key is None or scope["path"] in self.open:
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.api_key.encode()):
            return None
        return 401, "the bearer token is missing or wrong; send the header Authorization: Bearer KEY"

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        begun = failed = False
        taken, upload = 0, dict(scope["headers"]).get(b"content-type", b"").startswith(b"multipart/form-data")

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > (self.largest_upload if upload else LARGEST_CALL):
                raise ValueError("the call is too large")
            return message

        async def sent(message: Message) -> None:
            nonlocal begun, failed
            status = message["status"] if message["type"] == "http.response.start" else 0
            failed = failed or (status >= 500 and status != NO_ROOM)
            begun = begun or not failed
            if not failed:
                await send(message)

        refusal = None
        try:
            await self.app(scope, counted, sent)
        except Exception as error:  # whatever the app throws at a call that it cannot read
            failed = True
            if isinstance(error, OSError) and error.errno in FULL:
                refusal = NO_ROOM, no_room(error)
            if console.is_verbose():
                traceback.print_exc()
        if failed:
            if refusal is None:
                print(f"refused: {scope.get('method', 'GET')} {scope['path'][:100]!r}", file=sys.stderr)
            if not begun:
                use = "see /docs" if self.as_json else "use the page in a browser"
                made_by = "that can be answered" if self.as_json else "that the page makes"
                await self._answer(scope, send, *(refusal or (400, f"this is no call {made_by}; {use}")))

    async def _answer(self, scope: Message, send: Send, status: int, sentence: str) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        body = (json.dumps({"detail": sentence}) if self.as_json else sentence).encode("utf-8", "replace")
        kind = b"application/json" if self.as_json else b"text/plain; charset=utf-8"
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
