"""The page of `clipcap-video serve`, on Gradio. Nothing on it is fetched from elsewhere, and nothing is sent there."""

from __future__ import annotations

import html
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from clipcap_video import console
from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.formats import Wording
from clipcap_video.captioning.predictions import Caption
from clipcap_video.captioning.subtitles import clock
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError, first_line
from clipcap_video.stopping import stopped_by_signals
from clipcap_video.video.segments import Segmentation
from clipcap_video.web.guard import Guard
from clipcap_video.web.library import MEGABYTE, DescribedVideo, Hit, Library

# What browsers can show themselves; of others the captions are shown without a player.
PLAYABLE = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
SEGMENTS = {"shot by shot": "shots", "every 10 seconds": "fixed:10", "one caption": "whole"}
HIT_HEADERS = ["video", "from", "to", "caption"]
HEADERS = [*HIT_HEADERS[1:], "support"]


@dataclass(frozen=True)
class Address:
    """host: 127.0.0.1 is reached from this machine alone."""

    host: str = "127.0.0.1"
    port: int = 7860


def serve(
    captioner: Captioner,
    settings: DecodingSettings,
    address: Address,
    *,
    max_mb: int = 500,
    wording: Wording | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Shows the page until Ctrl-C or SIGTERM. All files it was given and made are gone afterwards.

    Raises ClipcapError when Gradio is not installed or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="clipcap-video-page-") as folder:
        # Read when Gradio is imported: its place for uploads, and its reports home.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "uploads"))
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        subtitle_folder = Path(folder, "subtitles")
        subtitle_folder.mkdir()
        library = Library(captioner, settings, subtitle_folder, max_mb * MEGABYTE, wording)
        page, look = build(library, max_mb)
        with stopped_by_signals(threading.Event()) as stop:
            try:
                # More calls than that wait nowhere: they are refused.
                page.queue(default_concurrency_limit=4, max_size=32).launch(
                    server_name=address.host,
                    server_port=address.port,
                    prevent_thread_lock=True,
                    quiet=True,
                    share=False,
                    allowed_paths=[folder],
                    max_file_size=max_mb * MEGABYTE,
                    footer_links=[],
                    run_history=False,
                    enable_monitoring=False,
                    ssr_mode=False,
                    app_kwargs={"middleware": [guard_of(address.host)]},
                    **look,
                )
            except OSError as error:
                if "empty port" not in str(error):
                    raise
                taken = f"port {address.port} of {address.host} is taken"
                raise ClipcapError(f"{taken}; give another one with --port") from None
            try:
                if not console.is_verbose():  # launching sets up the logs
                    _one_line_a_fault()
                # Browsers keep their connections open, and would be waited for.
                page.server.config.timeout_graceful_shutdown = 1
                tell(f"open http://{address.host}:{address.port} in a browser; Ctrl-C ends the page")
                stop.wait()
            finally:
                library.close()
                page.close(verbose=False)


def _one_line_a_fault() -> None:
    """A call that breaks is one line of the log; Gradio and the server below it would print tracebacks."""
    import gradio.queueing

    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def say(*_: Any) -> None:
        print(f"refused: {first_line(sys.exc_info()[1] or Exception('a call'))[:200]}", file=sys.stderr)

    gradio.queueing.traceback = SimpleNamespace(print_exc=say)


def guard_of(host: str) -> Any:
    """The guard of a page that listens at `host`, as middleware."""
    from starlette.middleware import Middleware  # type: ignore[import-not-found,unused-ignore]

    return Middleware(Guard, names=(host, socket.gethostname()))


def build(library: Library, max_mb: int) -> tuple[Any, dict[str, Any]]:
    """The page as Gradio Blocks, and what its `launch` must be given for its looks."""
    gradio = _gradio()

    def describe(file: str | None, segments: str, progress: Any = gradio.Progress()) -> tuple[Any, ...]:
        if file is None:
            return "", "", [], None, None
        try:
            described = library.describe(
                Path(file), Segmentation.parse(SEGMENTS[segments]), lambda share: progress(share, desc="captioning")
            )
        except ClipcapError as error:
            raise gradio.Error(str(error), title="Not captioned", print_exception=False) from None
        rows = [
            [clock(part.start or 0), clock(part.end or 0), part.text, _support(part.captions[0])]
            for part in described.segments
        ]
        downloads = [str(file) for file in described.subtitle_files.values()]
        return _heading(described.caption), _player(described), rows, downloads, described.number

    def play_segment(number: int | None, event: Any) -> str:
        if number is None:
            return ""
        video = library.videos[number]
        return _player(video, video.segments[event.index[0]].start)

    def play_hit(query: str, event: Any) -> str:
        hit = library.search(query)[event.index[0]]
        return _player(hit.video, hit.start or 0.0)

    for played in (play_segment, play_hit):  # Gradio looks at the type to know what to give
        played.__annotations__["event"] = gradio.SelectData

    def search(query: str) -> tuple[list[list[str]], str]:
        hits = library.search(query)
        many = f"{len(hits)} found" if hits else "nothing found"
        videos = len(library.videos)
        return _hit_rows(hits), f"{many} in {videos} video{'' if videos == 1 else 's'}" if query.strip() else ""

    with gradio.Blocks(title="clipcap-video", analytics_enabled=False) as page:
        on = _elements(gradio, max_mb)
        outputs = [on.caption, on.player, on.table, on.downloads, on.shown]
        for event in (on.file.upload, on.again.click):
            event(describe, [on.file, on.segments], outputs, concurrency_limit=1, api_visibility="private")
        for event in (on.query.submit, on.query.change):
            event(search, on.query, [on.hits, on.count], show_progress="hidden", api_visibility="private")
        on.table.select(play_segment, on.shown, on.player, show_progress="hidden", api_visibility="private")
        on.hits.select(play_hit, on.query, on.player, show_progress="hidden", api_visibility="private")
    fonts = ["system-ui", "sans-serif"]
    return page, {"theme": gradio.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])}


def _support(caption: Caption) -> str:
    if caption.support is None:
        return "–"
    probability = "" if caption.probability is None else f", probability {caption.probability:.0%}"
    return f"{caption.support:.0%}{probability}{', unsure' if caption.unsure else ''}"


def _heading(caption: Caption) -> str:
    return f"### {caption.text}" + ("" if caption.support is None else f"\n\nsupport {_support(caption)}")


def _elements(gradio: Any, max_mb: int) -> SimpleNamespace:
    """What is on the page, in its order."""
    on = SimpleNamespace(shown=gradio.State())
    gradio.Markdown("# clipcap-video\nDrop a video; it stays on this machine.")
    with gradio.Row():
        with gradio.Column(scale=1):
            on.file = gradio.File(label=f"A video, up to {max_mb} MB", elem_id="video-file", type="filepath")
            on.segments = gradio.Radio(list(SEGMENTS), value="shot by shot", label="Captions", elem_id="segments")
            on.again = gradio.Button("Caption", variant="primary", elem_id="caption-button")
            on.downloads = gradio.File(label="Subtitles", elem_id="subtitles", interactive=False)
        with gradio.Column(scale=2):
            on.caption = gradio.Markdown(elem_id="caption")
            on.player = gradio.HTML(elem_id="player")
            label = "Segments: click one to play it"
            on.table = gradio.Dataframe(
                headers=HEADERS, label=label, elem_id="segment-table", interactive=False, wrap=True
            )
    asked = "words of a caption, then Enter"
    on.query = gradio.Textbox(label="Search the videos so far", placeholder=asked, elem_id="search")
    on.count = gradio.Markdown(elem_id="hit-count")
    on.hits = gradio.Dataframe(headers=HIT_HEADERS, show_label=False, elem_id="hits", interactive=False, wrap=True)
    return on


def _gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise ClipcapError("the page needs Gradio; install it with pip install 'clipcap-video[web]'") from None
    return gradio


def _player(video: DescribedVideo, start: float | None = None) -> str:
    """The video with its subtitles, playing from `start` if that is given."""
    if video.path.suffix.lower() not in PLAYABLE:
        return f"<p>Browsers cannot play {video.path.suffix} files; the captions and subtitles are whole.</p>"
    picture, track = (
        html.escape(f"/gradio_api/file={quote(str(file))}") for file in (video.path, video.subtitle_files["vtt"])
    )
    # A jump to exactly where two subtitles meet would leave the earlier one on the picture.
    play, at = ("", "") if start is None else ("autoplay", f"#t={start + 0.05:.3f}")
    return (
        f'<video controls {play} preload="auto" style="width: 100%; max-height: 60vh" src="{picture}{at}">'
        f'<track kind="captions" label="captions" src="{track}" default></video>'
    )


def _hit_rows(hits: list[Hit]) -> list[list[str]]:
    return [
        [hit.video.name, *("" if time is None else clock(time) for time in (hit.start, hit.end)), hit.text]
        for hit in hits
    ]
