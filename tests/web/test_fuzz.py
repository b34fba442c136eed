"""A thousand calls of the endpoint that nobody means: each is refused in a sentence, and it goes on as before."""

from __future__ import annotations

import json
import random
import re
import socket
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx
import pytest

from tests.hostile.test_full_disk import small_disk
from tests.web.test_api import Served, address, captioner, served  # noqa: F401  (fixtures)

# fmt: off
ROUTES = ["/v1/captions", "/v1/batches", "/v1/batches/x", "/v1/batches/x/cancel", "/v1/search", "/health", "/docs"]
OTHER_ROUTES = ["/", "/v1", "/v2/captions", "/v1/captions/", "//v1/captions", "/v1/../etc/passwd", "/%00", "/%ff",
                "/v1/batches/%2e%2e%2f", "/openapi.json/x", "/v1/batches/" + "x" * 3000, "*"]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW", "post"]
NUMBERS = ["-1", "0", "1e308", "nan", "inf", "9" * 5000, "0x10", "1.5", "", " ", "true", "\u0663"]
WORDS = ["", " ", "\0", "x" * 5000, "../../etc/passwd", "/dev/zero", "a.mkv\0", "\xed\xa0\x80", "fixed:0",
         "fixed:99999", "fixed:-1", "shots", "<script>", "{{7*7}}", "'; drop", "null", "[]", "\xe9" * 100]
FIELDS = ["path", "file", "files", "paths", "segments", "format", "stream", "text", "top", "rank_by", "id", "x", ""]
KINDS = ["application/json", "text/plain", "application/x-www-form-urlencoded",
         "multipart/form-data", "multipart/form-data; boundary=",
         "multipart/form-data; boundary=b", "multipart/form-data; boundary=" + 99 * "b",
         "multipart/mixed; boundary=b", "application/xml", "", "x", "application/json; charset=utf-99"]
# fmt: on


class Chance(random.Random):
    """Makes up calls as bytes, from the request line to the body."""

    def body(self, content: bytes) -> bytes:
        fields = [(self.choice(FIELDS), self.choice(WORDS + NUMBERS)) for _ in range(self.randrange(5))]
        parts = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
            % (name.encode(), self.choice([b"", b'; filename="a.mkv"', b'; filename="../x"', b'; filename=""']),
               self.choice([value.encode(), content, content[:100]]))
            for name, value in fields
        ) + self.choice([b"--b--\r\n", b"--b", b""])  # fmt: skip
        made = [
            parts,
            parts[: self.randrange(len(parts) + 1)],
            urlencode(fields).encode(),
            json.dumps(dict(fields)).encode(),
            b'{"path": NaN, "top": 1e999}',
            b"[" * 10_000,
            self.randbytes(300),
            b"",
        ]
        return self.choice(made)

    def call(self, host: str, content: bytes) -> bytes:
        query = urlencode([(self.choice(FIELDS), self.choice(NUMBERS + WORDS)) for _ in range(self.randrange(4))])
        path = self.choice(ROUTES * 4 + OTHER_ROUTES) + (f"?{query}" if query else "")
        path = quote(path, safe="/%?=&*+")
        body = self.body(content)
        lengths = [str(len(body))] * 8 + ["-1", "x", str(10**15), str(len(body) + 7), "0"]
        headers = {
            "Host": self.choice([host] * 12 + ["evil.example", "", "a\tb"]),
            "Content-Type": self.choice(KINDS + ["multipart/form-data; boundary=b"] * 8),
            "Content-Length": self.choice(lengths),
            self.choice(["Origin", "X", "X", "X", "X"]): self.choice(["null", f"http://{host}", "http://evil.example"]),
            self.choice(["Transfer-Encoding", *["Y"] * 20]): self.choice(["chunked", "gzip", "x"]),
            "Authorization": self.choice(["", "Bearer x", "Basic \xff"]),
        }
        lines = [
            f"{self.choice(METHODS + ['POST'] * 8 + ['GET'] * 4)} {path} {self.choice(['HTTP/1.1'] * 20 + ['HTTP/9'])}"
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def answer_to(place: tuple[str, int], call: bytes) -> tuple[int, bytes]:
    """Status and body; 0 where the connection is closed without any, as for a call that is never whole."""
    with socket.create_connection(place, timeout=30) as connection:
        try:
            connection.sendall(call)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before it was read whole
        said = b""
        try:
            while part := connection.recv(65536):
                said += part
        except ConnectionError:
            pass
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]) if head else 0, body


@pytest.mark.slow
def test_a_thousand_calls_that_make_no_sense(
    served: Served, address: str, capfd: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    chance, host = Chance(0), address.removeprefix("http://")
    content = served.clip.read_bytes()
    name, _, port = host.partition(":")
    statuses, logged = set(), []
    for number in range(1000):
        call = chance.call(host, content)
        status, body = answer_to((name, int(port)), call)
        head = call[:300]
        statuses.add(status)
        assert status < 500, (head, status, body[:300])
        assert not re.search(b"Traceback|site-packages", body), (head, body[:300])
        if status >= 400 and body and b"Invalid HTTP request" not in body:  # uvicorn's own words
            assert body.startswith(b'{"detail":'), (head, body[:300])
            detail = json.loads(body)["detail"]
            assert len(detail.split()) > 3, (head, status, detail)
        logged += capfd.readouterr().err.splitlines()
        assert len(logged) <= number + 1, logged[-5:]
    assert {200, 400, 403, 404, 405, 413, 422} <= statuses, statuses
    assert not [line for line in logged if "Traceback" in line or line.startswith(" ")], logged
    assert httpx.post(f"{address}/v1/captions", data={"path": "a.mkv"}, timeout=60).status_code == 200


def test_a_disk_that_is_full_is_one_sentence(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """Where the upload is kept while it comes, and where it is put then; it goes on when there is room again."""
    content = bytes(1_800_000)  # more than is kept in memory
    with small_disk(tmp_path / "disk", 2**20):
        for place in ("temporary", "uploads"):
            with monkeypatch.context() as patch:
                if place == "temporary":
                    patch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
                else:
                    patch.setattr(served.api, "folder", tmp_path / "disk")
                answer = served.upload(content)
            assert (answer.status_code, "no room" in answer.json()["detail"]) == (507, True), place
            assert str(tmp_path) not in answer.json()["detail"]
            logged = capfd.readouterr().err.splitlines()
            assert (len(logged), logged[0].startswith("no room left")) == (1, True)
            assert list((tmp_path / "disk").iterdir()) == []
    assert served.upload().status_code == 200
