"""The page of `clipcap-video serve`, on Gradio. Nothing on it is fetched from elsewhere, and nothing is sent there."""

from __future__ import annotations

import html
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from clipcap_video import console
from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.formats import Wording
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.subtitles import clock
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import FULL, ClipcapError, first_line
from clipcap_video.stopping import stopped_by_signals
from clipcap_video.video.files import SUFFIXES
from clipcap_video.video.samples import sample_clips
from clipcap_video.video.segments import Segmentation
from clipcap_video.web.guard import Guard, no_room
from clipcap_video.web.library import MEGABYTE, DescribedVideo, Hit, Library

SEGMENTS = {"shot by shot": "shots", "every 10 seconds": "fixed:10", "one caption": "whole"}
HEADERS = ["when", "caption", "support"]
HIT_HEADERS = ["when", "caption", "video"]
WIDTHS = ["25%", "45%", "30%"]
INTO_VIEW = """() => requestAnimationFrame(() => document.querySelector("#player").scrollIntoView({block: "center"}))"""
CSS = """
#player video { width: 100%; max-height: 60vh; }
#status progress { width: 100%; accent-color: var(--primary-600); }
#status [role=alert] { padding: 0.75em 1em; border-left: 4px solid #c2410c; background: var(--block-background-fill); }
#video-file .or { color: inherit; }
#segment-table, #hits { --font-mono: var(--font); }
#subtitles a { color: var(--link-text-color); }
"""
# Gradio names its drop zone otherwise than it reads, which who speaks to a page cannot know.
HEAD = """<script>
new MutationObserver(() => {
    for (const zone of document.querySelectorAll("#video-file button[aria-label]")) {
        if (zone.innerText.trim()) zone.removeAttribute("aria-label");
    }
}).observe(document, {childList: true, subtree: true});
</script>"""


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
        examples = _examples()
        page, look = build(library, max_mb, examples)
        with stopped_by_signals(threading.Event()) as stop:
            try:
                # More calls than that wait nowhere: they are refused.
                page.queue(default_concurrency_limit=4, max_size=32).launch(
                    server_name=address.host,
                    server_port=address.port,
                    prevent_thread_lock=True,
                    quiet=True,
                    share=False,
                    allowed_paths=[folder, *map(str, examples)],
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


def _examples() -> list[Path]:
    """The sample clips, where they are installed."""
    try:
        return [clip for clip in sample_clips() if clip.is_file()]
    except ClipcapError:
        return []


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


def build(library: Library, max_mb: int, examples: Sequence[Path] = ()) -> tuple[Any, dict[str, Any]]:
    """The page as Gradio Blocks, and what its `launch` must be given for its looks. examples: videos to click."""
    gradio = _gradio()

    def describe(file: str | None, segments: str) -> Iterator[dict[Any, Any]]:
        if file is None:
            yield {on.status: _alert("There is no video yet: drop one, or click an example.")}
            return
        nothing = _shown(gradio, on, None)
        yield nothing | {on.status: _bar(0, 0.0, 0.0, 0.0)}
        try:
            for step in library.describe(Path(file), Segmentation.parse(SEGMENTS[segments])):
                if isinstance(step, DescribedVideo):
                    yield _shown(gradio, on, step) | {on.status: ""}
                else:
                    bar = _bar(len(step.segments), step.end, step.duration, step.share)
                    yield {on.status: bar, on.table: _rows(step.segments)}
        except ClipcapError as error:
            yield nothing | {on.status: _alert(str(error))}
        except OSError as error:
            if error.errno not in FULL:
                raise
            yield nothing | {on.status: _alert(no_room(error))}

    def play_segment(number: int | None, event: Any) -> Any:
        if number is None:
            return gradio.skip()
        video = library.videos[number]
        return player(video, video.segments[event.index[0]].start)

    def play_hit(found: list[tuple[int, float]], event: Any) -> dict[Any, Any]:
        number, start = found[event.index[0]]
        return _shown(gradio, on, library.videos[number], start)

    for played in (play_segment, play_hit):  # Gradio looks at the type to know what to give
        played.__annotations__["event"] = gradio.SelectData

    def search(query: str) -> tuple[list[list[str]], str, list[tuple[int, float]]]:
        hits = library.search(query)
        return _hit_rows(hits), _found(len(hits), len(library.videos), query), [_place(hit) for hit in hits]

    with gradio.Blocks(title="clipcap-video", analytics_enabled=False) as page:
        on = _elements(gradio, max_mb, examples)
        shown = [on.caption, on.player, on.table, on.downloads, on.shown]
        quietly: Any = {"show_progress": "hidden", "api_visibility": "private"}

        def describes(event: Any) -> None:
            described = event(describe, [on.file, on.segments], [*shown, on.status], concurrency_limit=1, **quietly)
            described.then(search, on.query, [on.hits, on.count, on.found], **quietly)

        describes(on.file.upload)
        describes(on.again.click)
        for button, example in zip(on.examples, examples, strict=True):
            describes(button.click(partial(str, example), None, on.file, **quietly).then)
        for event in (page.load, on.query.submit, on.query.change):
            event(search, on.query, [on.hits, on.count, on.found], **quietly)
        on.table.select(play_segment, on.shown, on.player, **quietly).then(None, js=INTO_VIEW)
        on.hits.select(play_hit, on.found, shown, **quietly).then(None, js=INTO_VIEW)
    return page, _look(gradio)


def _shown(
    gradio: Any, on: SimpleNamespace, video: DescribedVideo | None, start: float | None = None
) -> dict[Any, Any]:
    """What the elements hold for a video, which plays from `start` if that is given; for none, nothing."""
    if video is None:
        return {on.caption: "", on.player: "", on.table: [], on.downloads: gradio.File(visible=False), on.shown: None}
    return {
        on.caption: _heading(video.caption),
        on.player: player(video, start),
        on.table: _rows(video.segments),
        on.downloads: gradio.File([str(file) for file in video.subtitle_files.values()], visible=True),
        on.shown: video.number,
    }


def _look(gradio: Any) -> dict[str, Any]:
    """Colours with enough contrast, fonts that are there, and names that say what is shown."""
    theme = gradio.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
    return {"theme": theme, "css": CSS, "head": HEAD}


def _support(caption: Caption) -> str:
    if caption.support is None:
        return "–"
    probability = "" if caption.probability is None else f", probability {caption.probability:.0%}"
    return f"{caption.support:.0%}{probability}{', unsure' if caption.unsure else ''}"


def _heading(caption: Caption) -> str:
    return f"### {caption.text}" + ("" if caption.support is None else f"\n\nsupport {_support(caption)}")


def _rows(segments: Sequence[Prediction]) -> list[list[str]]:
    return [[_when(part.start, part.end), part.text, _support(part.captions[0])] for part in segments]


def _when(start: float | None, end: float | None) -> str:
    return "whole" if start is None or end is None else f"{clock(start)} – {clock(end)}"


def _elements(gradio: Any, max_mb: int, examples: Sequence[Path]) -> SimpleNamespace:
    """What is on the page, in its order."""
    on = SimpleNamespace(shown=gradio.State(), found=gradio.State([]))
    gradio.Markdown("# clipcap-video\nDrop a video; it stays on this machine.")
    with gradio.Row():
        with gradio.Column(scale=1):
            label = f"A video, up to {max_mb} MB"
            on.file = gradio.File(label=label, elem_id="video-file", type="filepath", file_types=list(SUFFIXES))
            with gradio.Row(elem_id="examples"):
                on.examples = [gradio.Button(f"Example: {example.stem}", size="sm") for example in examples]
            on.segments = gradio.Radio(list(SEGMENTS), value="shot by shot", label="Captions", elem_id="segments")
            on.again = gradio.Button("Caption", variant="primary", elem_id="caption-button")
            on.downloads = gradio.File(label="Subtitles", elem_id="subtitles", interactive=False, visible=False)
        with gradio.Column(scale=2):
            on.status = gradio.HTML(elem_id="status")
            on.caption = gradio.Markdown(elem_id="caption")
            on.player = gradio.HTML(elem_id="player")
            looks: Any = {"interactive": False, "wrap": True, "column_widths": WIDTHS}
            label = "Segments: click one to play it"
            on.table = gradio.Dataframe(headers=HEADERS, label=label, elem_id="segment-table", **looks)
    asked = "words of a caption; all videos without any"
    on.query = gradio.Textbox(label="Videos so far: search their captions", placeholder=asked, elem_id="search")
    on.count = gradio.Markdown(elem_id="hit-count")
    label = "Videos so far: click one to play it"
    on.hits = gradio.Dataframe(headers=HIT_HEADERS, label=label, elem_id="hits", **looks)
    return on


def _bar(segments: int, end: float, duration: float, share: float) -> str:
    """How far a video is: the one bar of the page."""
    done = f"{segments} segment{'' if segments == 1 else 's'}"
    told = f"{done}, {clock(end)} of {clock(duration)}" if segments else "reading the video"
    return f'<div role="status"><progress aria-label="captioned" max="1" value="{share:.3f}"></progress> {told}</div>'


def _alert(sentence: str) -> str:
    return f'<div role="alert">{html.escape(sentence)}</div>'


def _found(hits: int, videos: int, query: str) -> str:
    if not query.strip():
        return ""
    return f"{hits or 'nothing'} found in {videos} video{'' if videos == 1 else 's'}"


def _place(hit: Hit) -> tuple[int, float]:
    """The number of a hit's video, and where it begins."""
    return hit.video.number, hit.start or 0.0


def _gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise ClipcapError("the page needs Gradio; install it with pip install 'clipcap-video[web]'") from None
    return gradio


def player(video: DescribedVideo, start: float | None = None) -> str:
    """The video with its subtitles, playing from `start` if that is given."""
    if video.played is None:
        kind = video.path.suffix
        return f"<p>Browsers cannot play this {html.escape(kind)} file; the captions and subtitles are whole.</p>"
    picture, track = (
        html.escape(f"gradio_api/file={quote(str(file))}") for file in (video.played, video.subtitle_files["vtt"])
    )
    # A jump to exactly where two subtitles meet would leave the earlier one on the picture.
    play, at = ("", "") if start is None else ("autoplay", f"#t={start + 0.05:.3f}")
    note = "<p>A preview without sound: browsers cannot play the file itself.</p>" if video.is_preview else ""
    return (
        f'<video controls {play} preload="auto" aria-label="{html.escape(video.name)}: '
        f'{html.escape(video.caption.text)}" src="{picture}{at}">'
        f'<track kind="captions" label="captions" src="{track}" default></video>{note}'
    )


def _hit_rows(hits: list[Hit]) -> list[list[str]]:
    return [[_when(hit.start, hit.end), hit.text, hit.video.name] for hit in hits]
