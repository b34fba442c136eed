"""The local page: what it remembers and finds, and, in a real browser, what a user sees."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import srt

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.long_videos import caption_long_video
from clipcap_video.video.segments import Segmentation
from tests.browser import serious
from tests.captioning.conftest import SETTINGS, captioner  # noqa: F401  (a fixture)
from tests.clips import write_shots
from tests.commands import ROOT

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Running:
    """A running `clipcap-video serve`, the folder that it may use for temporary files, and its log."""

    address: str
    folder: Path
    log: Path
    process: subprocess.Popen[str]


@contextmanager
def running(tmp_path: Path) -> Iterator[Running]:
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed; pip install 'clipcap-video[web]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "-m", "clipcap_video", "serve", "--port", str(port), "--max_mb", "3", "--device", "cpu"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line
        yield Running(f"http://127.0.0.1:{port}", folder, tmp_path / "log", server)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        left = [file.name for file in folder.iterdir() if not file.name.startswith("torchinductor_")]  # a library's own
        assert left == [], "files were left behind"
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        server.kill()
        server.wait()
        log.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a page, and the folder that it may use for temporary files."""
    with running(tmp_path) as server:
        yield server.address, server.folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_three_seconds_while_it_captions(number: signal.Signals, tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    clip = write_shots(tmp_path / "long.mkv", [30] * 150)
    with running(tmp_path) as server:
        calls = httpx.get(f"{server.address}/config", timeout=30).json()["dependencies"]
        describe = next(call["id"] for call in calls if len(call["outputs"]) == 5)
        sent = httpx.post(f"{server.address}/gradio_api/upload", files={"files": ("long.mkv", clip.read_bytes())})
        file = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
        call = {"data": [file, "every 10 seconds"], "fn_index": describe, "session_hash": "a"}
        httpx.post(f"{server.address}/gradio_api/queue/join", json=call)
        with httpx.stream("GET", f"{server.address}/gradio_api/queue/data?session_hash=a", timeout=30) as told:
            lines = told.iter_lines()
            assert next(line for line in lines if "process_starts" in line)
            time.sleep(1)
            started = time.monotonic()
            server.process.send_signal(number)
            assert server.process.wait(30) == 0
            assert time.monotonic() - started < 3


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = chromium.new_context(viewport={"width": 1280, "height": 1300})
        context.set_default_timeout(120_000)
        yield context
        chromium.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.slow
def test_subtitles_are_seen_on_the_picture(captioner: Captioner, browser: Any, clip: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copy(clip, tmp_path / "talk.mp4")
    cut = Segmentation.parse("fixed:2.5")
    caption_long_video(captioner, tmp_path / "talk.mp4", cut, SETTINGS, to=("vtt", "srt"), progress=False)
    subtitles = list(srt.parse((tmp_path / "talk.srt").read_text()))
    # As a blob the video can be searched; the little server knows no ranges.
    (tmp_path / "page.html").write_text(
        """<body style="margin: 0"><video width="640" muted></video><script>
        fetch('talk.mp4').then(answer => answer.blob()).then(blob => {
            document.querySelector('video').src = URL.createObjectURL(blob); });</script>"""
    )
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab = browser.new_page()
        tab.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        tab.wait_for_function("document.querySelector('video').readyState >= 4")
        seek = """async at => { const video = document.querySelector('video');
            video.currentTime = at; await new Promise(done => video.onseeked = done); }"""
        bare = {}
        for subtitle in subtitles:
            bare[subtitle.index] = _seen(tab, seek, subtitle)
        tab.evaluate(
            """async () => { const track = document.createElement('track');
            track.kind = 'captions'; track.src = 'talk.vtt'; track.default = true;
            const loaded = new Promise(done => track.onload = done);
            document.querySelector('video').append(track); track.track.mode = 'showing'; await loaded; }"""
        )
        for subtitle in subtitles:
            seen = _seen(tab, seek, subtitle)
            text = tab.evaluate("[...document.querySelector('video').textTracks[0].activeCues].map(cue => cue.text)")
            assert text == [subtitle.content]
            # White letters on dark near the lower edge, where the bare picture had none.
            height = len(seen)
            changed = (seen != bare[subtitle.index]).any(axis=2)
            assert changed[int(0.75 * height) :].sum() > 500
            assert changed[: int(0.6 * height)].sum() == 0
        if keep := os.environ.get("SCREENSHOTS"):
            tab.screenshot(path=Path(keep) / "track.png")
        server.shutdown()


def _seen(tab: Any, seek: str, subtitle: srt.Subtitle) -> np.ndarray:
    """The picture in the middle of a subtitle's time: uint8 [H, W, 3]."""
    tab.evaluate(seek, (subtitle.start + subtitle.end).total_seconds() / 2)
    tab.wait_for_timeout(300)
    return cv2.imdecode(np.frombuffer(tab.locator("video").screenshot(), np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.slow
def test_a_video_is_dropped_captioned_found_and_played(
    page: tuple[str, Path], browser: Any, clip: Path, tmp_path: Path
) -> None:
    address, _ = page
    tab = browser.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    drop = "#video-file input[type=file]"
    tab.wait_for_selector(drop, state="attached")

    assert ".avi" in tab.get_attribute(drop, "accept")  # what the picker shows

    notes = tmp_path / "notes.mp4"
    notes.write_text("this is no video")
    tab.set_input_files(drop, notes)
    assert "notes.mp4 is not a video" in tab.inner_text("#status [role=alert]")
    assert tab.locator(".toast-body, .error, [role=alert]").count() == 1
    tab.reload()
    tab.wait_for_selector(drop, state="attached")
    large = tmp_path / "large.mp4"
    large.write_bytes(b"\0" * 4_000_000)
    tab.set_input_files(drop, large)
    assert re.search("size|large|limit", tab.inner_text(".toast-body"), re.IGNORECASE)
    tab.reload()
    tab.wait_for_selector(drop, state="attached")

    tab.set_input_files(drop, clip)
    tab.wait_for_function("document.querySelectorAll('progress').length === 1")
    caption = tab.inner_text("#caption h3")
    assert len(caption.split()) > 2
    tab.locator("#segment-table [role=gridcell]").first.wait_for()
    assert caption.split()[0] in tab.inner_text("#segment-table")
    with tab.expect_download() as download:
        tab.click("#subtitles a[download$='.srt']")
    subtitles = list(srt.parse(Path(download.value.path()).read_text()))
    assert subtitles[0].start.total_seconds() == 0
    assert subtitles[-1].end.total_seconds() == pytest.approx(10, abs=0.1)

    # The player shows the picture and, over it, the words of the track.
    tab.wait_for_function("document.querySelector('#player video')?.readyState >= 2")
    tab.evaluate("document.querySelector('#player video').currentTime = 1")
    shown = "document.querySelector('#player video').textTracks[0].activeCues?.[0]?.text"
    tab.wait_for_function(f"{shown} !== undefined")
    assert tab.evaluate(shown).split() == subtitles[0].content.split()

    tab.fill("#search textarea, #search input", caption.split()[-1])
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelector('#hit-count')?.innerText.includes('found in 1 video')")
    assert "bikes.mp4" in tab.inner_text("#hits")
    tab.locator("#hits [role=gridcell]").last.click()
    tab.wait_for_function("document.querySelector('#player video')?.currentTime > 0.2")
    assert tab.locator("progress").count() == 0
    if keep := os.environ.get("SCREENSHOTS"):
        tab.screenshot(path=Path(keep) / "serve.png", full_page=True)
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []


@pytest.mark.slow
def test_rows_stream_past_videos_are_listed_and_an_avi_plays(
    page: tuple[str, Path], browser: Any, tmp_path: Path
) -> None:
    address, _ = page
    tab = browser.new_page()
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.goto(address)
    drop = "#video-file input[type=file]"
    tab.wait_for_selector(drop, state="attached")
    talk = write_shots(tmp_path / "talk.avi", [30, 21] * 12, size=(320, 240))
    counted = """window.counts = []; new MutationObserver(() => {
        const shown = document.querySelector('#status progress');
        if (shown) window.counts.push([document.querySelectorAll('progress').length, shown.value,
            parseInt(document.querySelector('#status').innerText) || 0]);
    }).observe(document, {childList: true, subtree: true, attributes: true})"""
    tab.evaluate(counted)
    tab.set_input_files(drop, talk)
    tab.wait_for_selector("#caption h3")
    counts = tab.evaluate("window.counts")
    assert {bars for bars, _, _ in counts} == {1}
    assert [share for _, share, _ in counts] == sorted(share for _, share, _ in counts)
    assert len({segments for _, _, segments in counts} - {0}) >= 2

    # Its preview plays, with a note that it is one.
    tab.wait_for_function("document.querySelector('#player video')?.readyState >= 2")
    assert tab.evaluate("document.querySelector('#player video').videoWidth") == 320
    assert tab.evaluate("document.querySelector('#player video').duration") == pytest.approx(61.2, abs=0.2)
    assert "preview" in tab.inner_text("#player")

    # An example is a click; both videos are listed, here and in a page that is opened anew.
    if tab.locator("#examples button").count():
        tab.locator("#examples button").first.click()
        tab.wait_for_function("document.querySelector('#hits')?.innerText.includes('bikes.mp4')")
    other = browser.new_page()
    other.set_viewport_size({"width": 390, "height": 844})
    other.goto(address)
    other.wait_for_function("document.querySelector('#hits')?.innerText.includes('talk.avi')")
    assert other.evaluate("document.documentElement.scrollWidth") == 390

    # A hit plays, and the player is in view.
    other.locator("#hits [role=gridcell]", has_text="talk.avi").first.scroll_into_view_if_needed()
    other.locator("#hits [role=gridcell]", has_text="talk.avi").first.click()
    other.wait_for_function("document.querySelector('#player video')?.currentTime > 0.1")
    other.wait_for_function("""() => { const box = document.querySelector('#player video').getBoundingClientRect();
        return box.top >= 0 && box.bottom <= innerHeight; }""")
    if keep := os.environ.get("SCREENSHOTS"):
        other.screenshot(path=Path(keep) / "serve-narrow.png", full_page=True)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: tuple[str, Path], browser: Any, clip: Path, width: int, scheme: str) -> None:
    tab = browser.new_page()
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(color_scheme=scheme)
    tab.goto(page[0])
    tab.wait_for_selector("#video-file input[type=file]", state="attached")
    tab.wait_for_timeout(1000)
    assert serious(tab) == []
    tab.set_input_files("#video-file input[type=file]", clip)
    tab.wait_for_selector("#player video")
    tab.wait_for_timeout(1000)
    assert serious(tab) == []
