"""The endpoint: its answers are the captioner's, nothing is lost, and what is not allowed is refused in a sentence."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import srt

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.formats import Wording
from clipcap_video.search.ranking import SearchHit
from clipcap_video.web.batching import CaptionQueue
from tests.captioning.conftest import SETTINGS, captioner  # noqa: F401  (a fixture)
from tests.clips import write_shots
from tests.commands import ROOT

pytest.importorskip("fastapi", reason="FastAPI (extra web) is not installed")
pytest.importorskip("httpx", reason="httpx (extra dev) is not installed")
import httpx
import uvicorn
from starlette.testclient import TestClient

from clipcap_video.web.api import Api, build

LENGTHS = [30, 30, 40]


class Served:
    """The app over a folder `root` of videos, as a client of it sees it."""

    def __init__(self, captions: CaptionQueue, folder: Path, api_key: str | None = None) -> None:
        self.queue, self.root, self.uploads = captions, folder / "root", folder / "uploads"
        self.root.mkdir()
        self.uploads.mkdir()
        self.clip = write_shots(self.root / "a.mkv", LENGTHS)
        self.api = Api(captions, self.uploads, self.root, None, Wording())
        self.app = build(self.api, api_key=api_key)
        self.client = TestClient(self.app, base_url="http://localhost")

    def post(self, call: str = "/v1/captions", **form: Any) -> Any:
        files = form.pop("files", None)
        return self.client.post(call, data=form, files=files)

    def upload(self, content: bytes | None = None, **form: Any) -> Any:
        return self.post(files={"file": ("b.mkv", content or self.clip.read_bytes())}, **form)


@pytest.fixture
def served(captioner: Captioner, tmp_path: Path) -> Iterator[Served]:  # noqa: F811
    with CaptionQueue(captioner, SETTINGS, most_bytes=1_000_000) as captions:
        yield Served(captions, tmp_path)
        wait_until(lambda: captions.open_jobs == 0)
    assert list((tmp_path / "uploads").iterdir()) == [], "an upload was left behind"


def wait_until(holds: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


class TestCaptions:
    def test_whole_and_segments_are_those_of_the_captioner(self, served: Served) -> None:
        captioner = served.queue.captioner  # noqa: F811
        whole = served.upload().json()
        assert whole["video"] == "b"
        assert [row["caption"] for row in whole["captions"]] == [captioner.caption(served.clip, SETTINGS).text]
        parts = served.post(path="a.mkv", segments="shots").json()["captions"]
        expected = [(one.start, one.end, one.text) for one in captioner.stream(served.clip, "shots", SETTINGS)]
        assert [(row["start"], row["end"], row["caption"]) for row in parts] == expected
        assert len(parts) > 1

    def test_subtitles_and_a_stream_say_the_same(self, served: Served) -> None:
        rows = served.upload(segments="shots").json()["captions"]
        subtitles = list(srt.parse(served.upload(segments="shots", format="srt").text))
        assert [sub.start.total_seconds() for sub in subtitles] == [row["start"] for row in rows]
        assert served.upload(format="vtt").text.startswith("WEBVTT")
        answer = served.upload(segments="shots", stream="true")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [dict(line.split(": ", 1) for line in one.splitlines()) for one in answer.text.strip().split("\n\n")]
        assert [json.loads(one["data"]) for one in events if one.get("event") == "caption"] == rows
        assert json.loads(events[-1]["data"])["captions"] == len(rows)

    def test_a_batch_and_its_progress(self, served: Served) -> None:
        (served.root / "notes.mp4").write_text("this is no video")
        upload = [("files", ("b.mkv", served.clip.read_bytes()))]
        answer = served.post("/v1/batches", paths=["a.mkv", "notes.mp4"], files=upload)
        assert answer.status_code == 202
        place = f"/v1/batches/{answer.json()['id']}"
        wait_until(lambda: served.client.get(place).json()["done"] == 3)
        videos = {video["video"]: video for video in served.client.get(place).json()["videos"]}
        assert videos["a.mkv"]["captions"][0]["caption"] == videos["b.mkv"]["captions"][0]["caption"]
        assert videos["notes.mp4"]["state"] == "failed"
        assert videos["notes.mp4"]["error"].startswith("notes.mp4 is not a video")
        assert served.post(f"{place}/cancel").status_code == 200
        assert served.client.get(place).json()["done"] == 3
        assert served.client.get(f"{place}0").status_code == 404

    def test_requests_share_batches(self, served: Served) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: served.upload(segments="fixed:1").json()["captions"], range(8)))
        assert all(answer == answers[0] for answer in answers)
        assert max(served.queue.batches) > 1

    def test_one_that_breaks_breaks_no_other(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        real = served.queue.captioner.caption_segments

        def broken(name: str, segments: Any, settings: Any) -> Any:
            if any(segment.end > 5 for segment in segments):
                raise RuntimeError("out of memory")
            return real(name, segments, settings)

        monkeypatch.setattr(served.queue.captioner, "caption_segments", broken)
        short = write_shots(served.root / "short.mkv", [30]).read_bytes()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(served.upload, [None, short, None, short]))
        assert [answer.status_code for answer in answers] == [422, 200, 422, 200]
        assert "the server's log says why" in answers[0].json()["detail"]


class TestWhatIsRefused:
    def test_paths(self, served: Served, tmp_path: Path) -> None:
        (tmp_path / "secret.mkv").write_bytes(served.clip.read_bytes())
        (served.root / "out").symlink_to(tmp_path / "secret.mkv")
        (served.root / "folder").symlink_to(tmp_path)
        os.mkfifo(served.root / "fifo")
        outside = ["out", "folder/secret.mkv", "../secret.mkv", "../nothing.mkv", "/dev/zero", str(tmp_path)]
        for path, status in [*((one, 403) for one in outside), ("fifo", 422), (".", 422), ("no", 404), ("a\0", 404)]:
            answer = served.post(path=path)
            assert (path, answer.status_code) == (path, status)
            assert "--root" in answer.json()["detail"] or "no file" in answer.json()["detail"]
        served.api.root = None
        assert served.post(path="a.mkv").status_code == 403

    def test_uploads_and_words(self, served: Served) -> None:
        assert served.upload(b"this is no video").json()["detail"].startswith("b.mkv is not a video")
        assert served.upload(b"\0" * 1_500_000).json()["detail"].startswith("b.mkv has 2 MB and the limit is 1 MB")
        assert served.upload(b"\0" * 3_000_000).status_code == 413
        assert "either a file or a path" in served.post().json()["detail"]
        assert "segments" in served.upload(segments="some").json()["detail"]
        assert "JSON alone" in served.upload(format="srt", stream="true").json()["detail"]
        assert "--features" in served.client.get("/v1/search", params={"text": "a dog"}).json()["detail"]
        assert served.client.get("/health", headers={"Host": "evil.example"}).status_code == 403

    def test_too_many_at_once(self, served: Served) -> None:
        served.queue.most_jobs = 0
        answer = served.upload()
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert "try again later" in answer.json()["detail"]

    def test_without_the_token(self, captioner: Captioner, tmp_path: Path) -> None:  # noqa: F811
        with CaptionQueue(captioner, SETTINGS, most_bytes=1_000_000) as captions:
            client = Served(captions, tmp_path, api_key="key").client
            assert client.get("/health").json()["status"] == "ok"
            assert "/v1/captions" in client.get("/docs").text
            for header in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic key"}):
                assert client.post("/v1/captions", data={"path": "a.mkv"}, headers=header).status_code == 401
            allowed = {"Authorization": "Bearer key"}
            assert client.post("/v1/captions", data={"path": "a.mkv"}, headers=allowed).status_code == 200


@pytest.fixture
def address(served: Served) -> Iterator[str]:
    """The app behind a real server."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(served.app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_goes_away_frees_its_file_and_harms_nobody(served: Served, address: str, stream: str) -> None:
    held = threading.Event()
    real = served.queue.captioner.caption_segments
    served.queue.captioner.caption_segments = lambda *given: held.wait(10) and real(*given)  # type: ignore
    try:
        content, form = served.clip.read_bytes(), {"segments": "fixed:1", "stream": stream}
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{address}/v1/captions", data=form, files={"file": ("b.mkv", content)}, timeout=0.5)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(httpx.post, f"{address}/v1/captions", data={"path": "a.mkv"}, timeout=20)
            wait_until(lambda: not list(served.uploads.iterdir()), 5)  # while captions are still held
            held.set()
            assert other.result().status_code == 200
    finally:
        del served.queue.captioner.caption_segments


@pytest.mark.slow
def test_two_hundred_requests_at_once_lose_nothing(served: Served, address: str) -> None:
    content = served.clip.read_bytes()

    def ask(number: int) -> list[tuple[float, str]]:
        form = {"segments": ["whole", "shots"][number % 2]}
        file = {"file": (f"{number}.mkv", content)}
        answer = httpx.post(f"{address}/v1/captions", data=form, files=file, timeout=300).json()
        assert answer["video"] == str(number)
        return [(row["start"], row["caption"]) for row in answer["captions"]]

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask, range(200)))
    assert all(answer == answers[number % 2] for number, answer in enumerate(answers))
    assert len(answers[1]) > 1


@pytest.mark.slow
def test_schemathesis_finds_nothing_against_its_own_description(served: Served, address: str, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis (extra dev) is not installed")
    # What is no video, or no path under --root, fits the description and is refused all the same.
    refusals = '["2xx", "400", "401", "403", "404", "413", "422", "429"]'
    (tmp_path / "schemathesis.toml").write_text(f"[checks.positive_data_acceptance]\nexpected-statuses = {refusals}\n")
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "run", f"{address}/openapi.json", "--max-examples", "40", "--seed", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_three_seconds(number: signal.Signals, tmp_path: Path) -> None:
    clip = write_shots(tmp_path / "a.mkv", [30] * 40)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (temporary := tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "clipcap_video", "serve", "--api", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        with ThreadPoolExecutor(4) as pool, clip.open("rb") as stream:
            content, form = stream.read(), {"segments": "fixed:1"}
            place = f"http://127.0.0.1:{port}/v1/captions"
            asked = [pool.submit(httpx.post, place, data=form, files={"file": content}, timeout=60) for _ in range(4)]
            wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").json()["waiting"] == 4)
            started = time.monotonic()
            server.send_signal(number)
            assert server.wait(20) == 0
            assert time.monotonic() - started < 3
            assert all(one.exception() or one.result().status_code == 422 for one in asked)
        assert list(temporary.iterdir()) == []
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        server.kill()
        server.wait()
        log.close()


def test_search_gives_the_hits_of_the_index(served: Served) -> None:
    hit = SearchHit("a", 0.5, 3, 1.5)
    asked = []

    def by_text(*words: object) -> list[SearchHit]:
        asked.append(words)
        return [hit]

    served.api.videos = SimpleNamespace(by_text=by_text, index=SimpleNamespace(ids=["a", "b"]))  # type: ignore[assignment]
    found = served.client.get("/v1/search", params={"text": "a dog", "top": 3, "rank_by": "video"}).json()
    assert found == {"videos": 2, "results": [asdict(hit)]}
    assert asked == [("a dog", 3, "video")]
    assert served.client.get("/health").json()["searchable"] == 2
    assert served.client.get("/v1/search", params={"text": "a dog", "top": 0}).status_code == 422
