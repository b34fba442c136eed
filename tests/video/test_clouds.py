"""Videos on the Hugging Face Hub and in Google's storage, each played by a server on the loopback."""

# ruff: noqa: F811
from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.video.files import find_videos
from tests.features.conftest import SPEC, GridEncoder
from tests.video.test_places import folder, same_features  # noqa: F401  (a fixture)

pytest.importorskip("fsspec", reason="fsspec is not installed")


class Hub(BaseHTTPRequestHandler):
    """The calls of the hub by which the files of the data set me/clips are listed and read."""

    root: Path

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/api/datasets/me/clips":
            self.answer(200, {"id": "me/clips", "sha": "1" * 40, "private": False, "tags": [], "siblings": []})
        elif found := re.fullmatch(r"/api/datasets/me/clips/tree/main/?(.*)", path):
            place = self.root / found[1]
            files = place.rglob("*") if "recursive=true" in query.lower() else place.iterdir()
            entries = [self.entry(file) for file in files] if place.is_dir() else {}
            self.answer(200 if place.is_dir() else 404, entries, **{"X-Error-Code": "EntryNotFound"})
        elif found := re.fullmatch(r"/datasets/me/clips/resolve/main/(.*)", path):
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
            self.answer(206, (self.root / found[1]).read_bytes()[first : last + 1])
        else:
            self.answer(404, {}, **{"X-Error-Code": "RepoNotFound"})

    def entry(self, file: Path) -> dict[str, object]:
        kind = "directory" if file.is_dir() else "file"
        return {"type": kind, "path": str(file.relative_to(self.root)), "oid": "0" * 40, "size": file.stat().st_size}

    def answer(self, status: int, content: object, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address; the folder's videos are in clips/."""
    import fsspec
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as a test before may have left it, without a network
    (tmp_path / "hub").mkdir()
    folder.rename(tmp_path / "hub" / "clips")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Played", (Hub,), {"root": tmp_path / "hub"}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": address})
    yield address
    server.shutdown()
    server.server_close()


def test_videos_of_the_hub(tmp_path: Path, hub: str) -> None:
    same_features(tmp_path, tmp_path / "hub" / "clips", "hf://datasets/me/clips/clips")
    with pytest.raises(ClipcapError, match=r"^nothing at hf://datasets/me/clips/absent; give a folder"):
        find_videos(Path("hf://datasets/me/clips/absent"))
    with pytest.raises(ClipcapError, match=r"^hf://datasets/me/absent cannot be used \(datasets/me/absent \(repos"):
        find_videos(Path("hf://datasets/me/absent"))


@pytest.mark.slow
def test_videos_of_googles_storage_and_features_in_it(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks over gRPC, which the stand-in has not
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    import fsspec

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="videos")
    server.start()
    try:
        monkeypatch.setitem(fsspec.config.conf, "gs", {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon"})
        system = fsspec.filesystem("gs")
        for file in folder.iterdir():
            system.put_file(str(file), f"videos/clips/{file.name}")
        same_features(tmp_path, folder, "gs://videos/clips")
        extract(find_videos(Path("gs://videos/clips")), GridEncoder(), SPEC, tmp_path / "home", progress=False,
                shard_mb=1, place=Path("gs://videos/features"))  # fmt: skip
        store = open_features("gs://videos/features")
        assert store.ids() == open_features(tmp_path / "plain").ids()
        with pytest.raises(ClipcapError, match=r"^gs://absent/x cannot be used \("):
            find_videos(Path("gs://absent/x"))
    finally:
        server.stop()
