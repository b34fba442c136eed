"""The endpoint of `clipcap-video serve --api`, on FastAPI. Nothing is fetched from elsewhere or sent there."""

from __future__ import annotations

import asyncio
import html
import json
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from clipcap_video.captioning.formats import Results, Wording, subtitles
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.errors import FULL, ClipcapError, first_line
from clipcap_video.search.searching import VideoSearch
from clipcap_video.stopping import stopped_by_signals
from clipcap_video.video.files import SUFFIXES
from clipcap_video.video.segments import Segmentation
from clipcap_video.web.answers import Batch, BatchVideo, Captions, Found, Health, Problem, RunningBatch, row_of
from clipcap_video.web.batching import Busy, CaptionQueue, End, Event, Job
from clipcap_video.web.guard import LARGEST_CALL, NO_ROOM, Guard, no_room

OPEN = ("/health", "/docs", "/openapi.json")  # answered without a token
MOST_BATCHES = 100  # whose results are kept
GONE_SECONDS = 0.5  # how often it is looked whether a client is still there
SILENCE = 30  # times GONE_SECONDS after which a stream says that it is alive


class Refused(ClipcapError):
    """What a request cannot have, with the HTTP status that says so."""

    def __init__(self, http_status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.http_status = http_status


Segments = Annotated[
    str,
    Form(description="`whole`, `shots`, or `fixed:10` for every 10 seconds", pattern=r"^(whole|shots|fixed:\d{1,4})$"),
]
Inside = Form(description="Path of a video under --root", max_length=1000)


class Api:
    """The calls. folder: for uploads. root: whose videos may be named by their paths. search: what is searched."""

    def __init__(
        self, captions: CaptionQueue, folder: Path, root: Path | None, search: VideoSearch | None, wording: Wording
    ) -> None:
        self.queue, self.folder, self.wording = captions, folder, wording
        self.root = None if root is None else root.resolve()
        self.videos, self._searching = search, asyncio.Lock()
        self.batches: dict[str, RunningBatch] = {}

    async def captions(
        self,
        request: Request,
        file: Annotated[UploadFile | None, File(description="A video")] = None,
        path: Annotated[str | None, Inside] = None,
        segments: Segments = "whole",
        format: Annotated[Literal["json", "srt", "vtt"], Form()] = "json",
        stream: Annotated[bool, Form(description="Server-sent events: caption ..., then done or error")] = False,
    ) -> Any:
        """Captions of a video that is uploaded, or named by its path on the server."""
        if (file is None) == (path is None):
            raise Refused(422, "give either a file or a path")
        if stream and format != "json":
            raise Refused(422, f"a stream has JSON alone; leave out format={format} or stream")
        job = await self._job(file, path, Segmentation.parse(segments))
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        job.tell = tell
        self.queue.add([job])
        if stream:
            return StreamingResponse(_stream(job, events), media_type="text/event-stream")
        predictions, warning = [], None
        async for event in _events(job, events, request):
            if isinstance(event, Prediction):
                predictions.append(event)
            elif isinstance(event, End):
                warning = event.warning
        results = Results(predictions, wording=self.wording)
        if format != "json":
            media_type = "text/vtt" if format == "vtt" else "application/x-subrip"
            return Response(subtitles(format, results), media_type=media_type)
        return Captions(video=Path(job.name).stem or job.name, captions=list(map(row_of, predictions)), warning=warning)

    async def add_batch(
        self,
        files: Annotated[list[UploadFile], File(description="Videos")] = [],  # noqa: B006
        paths: Annotated[list[Annotated[str, Inside]], Form()] = [],  # noqa: B006
        segments: Segments = "whole",
    ) -> Batch:
        """Many videos at once; the answer has an id under which their captions are there as they come."""
        if not files and not paths:
            raise Refused(422, "give files or paths; a batch has at least one video")
        finished = [name for name, one in self.batches.items() if one.status(name).done == len(one.videos)]
        if len(self.batches) >= MOST_BATCHES and not finished:
            raise Busy(f"{MOST_BATCHES} batches are under way and that is the limit; try again later")
        segmentation = Segmentation.parse(segments)
        jobs: list[Job] = []
        try:
            for file, path in [*((file, None) for file in files), *((None, path) for path in paths)]:
                jobs.append(await self._job(file, path, segmentation))
        except BaseException:
            for job in jobs:
                job.discard()
            raise
        batch = RunningBatch(jobs, [BatchVideo(video=job.name) for job in jobs])
        for job, video in zip(jobs, batch.videos, strict=True):
            job.tell = batch.teller(video)
        self.queue.add(jobs, in_bulk=True)
        if len(self.batches) >= MOST_BATCHES:
            del self.batches[finished[0]]
        name = secrets.token_hex(8)
        self.batches[name] = batch
        return batch.status(name)

    async def batch(self, id: str) -> Batch:
        """How far a batch is, and its captions so far."""
        return self._batch(id).status(id)

    async def cancel_batch(self, id: str) -> Batch:
        """Cancels what is left of a batch; what is done stays."""
        batch = self._batch(id)
        for job in batch.jobs:
            job.stop.set()
        return batch.status(id)

    async def search(
        self,
        text: Annotated[str, Query(description="What the videos should show", min_length=1, max_length=1000)],
        top: Annotated[int, Query(ge=1, le=1000)] = 10,
        rank_by: Annotated[Literal["moment", "video"], Query()] = "moment",
    ) -> Found:
        """Videos that match a text best, of the features that the server was started with."""
        videos = self.videos
        if videos is None:
            raise Refused(404, "there is nothing to search; start the server with --features FOLDER")
        async with self._searching:
            hits = await run_in_threadpool(videos.by_text, text, top, rank_by)
        return Found(videos=len(videos.index.ids), results=hits)

    async def health(self) -> Health:
        """Whether the server is up; needs no token."""
        searchable = None if self.videos is None else len(self.videos.index.ids)
        model = Path(self.queue.captioner.describe()["model"]).name
        return Health(model=model, waiting=self.queue.open_jobs, searchable=searchable)

    def _batch(self, name: str) -> RunningBatch:
        if name not in self.batches:
            raise Refused(
                404, f"there is no batch {name[:100]!r} here; the oldest are forgotten, and all when the server ends"
            )
        return self.batches[name]

    async def _job(self, file: UploadFile | None, path: str | None, segmentation: Segmentation) -> Job:
        if file is None:
            return Job(inside(self.root, path or ""), Path(path or "").name, segmentation)
        name = Path(file.filename or "upload").name[:200] or "upload"
        suffix = Path(name).suffix.lower()
        copy = self.folder / f"{secrets.token_hex(8)}{suffix if suffix in SUFFIXES else ''}"

        def write() -> None:
            with copy.open("wb") as target:
                shutil.copyfileobj(file.file, target, 1 << 20)

        try:
            await asyncio.shield(writing := asyncio.ensure_future(asyncio.to_thread(write)))
        except BaseException:  # the client went away, or the disk is full
            writing.add_done_callback(lambda _: copy.unlink(missing_ok=True))
            raise
        return Job(copy, name, segmentation, temporary=True)


def inside(root: Path | None, path: str) -> Path:
    """The regular file at `path` under `root`, symbolic links followed. Raises Refused for anything else."""
    if root is None:
        raise Refused(403, "no paths are read here; upload the file, or start the server with --root FOLDER")
    try:
        file = (root / path).resolve()
        if not file.is_relative_to(root):  # whether it is there or not
            raise Refused(403, f"{path[:200]!r} is outside of --root; name a video in it")
        if file.is_file():
            return file
        exists = file.exists()
    except (OSError, ValueError, RuntimeError):
        exists = False
    if exists:
        raise Refused(422, f"{path[:200]!r} is no file; name a video")
    raise Refused(404, f"there is no {path[:200]!r} in --root; check the path")


async def _events(job: Job, events: asyncio.Queue[Event], request: Request | None) -> AsyncIterator[Event | None]:
    """What is told of a job, to its end; None now and then while nothing is. A client that goes away ends the job.

    request: asked whether its client is still there. Raises what ended the job.
    """
    waiting = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(events.get())
            await asyncio.wait({waiting}, timeout=GONE_SECONDS)
            if not waiting.done():
                if request is not None and await request.is_disconnected():
                    raise Refused(422, "the client went away")
                yield None
                continue
            event, waiting = waiting.result(), None
            if isinstance(event, ClipcapError):
                raise event
            yield event
            if isinstance(event, End):
                return
    finally:
        job.stop.set()
        if waiting is not None:
            waiting.cancel()


async def _stream(job: Job, events: asyncio.Queue[Event]) -> AsyncIterator[str]:
    """Server-sent events. Starlette cancels them when the client goes away."""
    count = silent = 0
    try:
        async for event in _events(job, events, None):
            silent = silent + 1 if event is None else 0
            if isinstance(event, Prediction):
                count += 1
                yield _event("caption", vars(row_of(event)))
            elif isinstance(event, End):
                yield _event("done", {"captions": count, "warning": event.warning})
            elif silent % SILENCE == 1:
                yield ": waiting\n\n"
    except ClipcapError as error:
        yield _event("error", {"detail": str(error)})


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"


def build(api: Api, names: tuple[str, ...] = (), api_key: str | None = None) -> FastAPI:
    """The ASGI app, guarded."""
    app = FastAPI(title="clipcap-video", docs_url=None, redoc_url=None, redirect_slashes=False)
    said = {400: "unreadable", 401: "no token", 403: "not allowed", 404: "not there", 413: "too large"}
    said |= {422: "wrong input", 429: "too many at once", 507: "no room"}
    problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem, "description": s} for code, s in said.items()}
    secured: dict[str, Any] = {"responses": problems}
    if api_key is not None:
        secured["dependencies"] = [Depends(HTTPBearer(auto_error=False))]
    texts = {kind: {"schema": {"type": "string"}} for kind in ("text/event-stream", "text/vtt", "application/x-subrip")}
    several = problems | {200: {"model": Captions, "content": texts}}
    app.post("/v1/captions", **secured | {"responses": several}, response_model=None)(api.captions)
    app.post("/v1/batches", **secured, status_code=202, response_model=Batch)(api.add_batch)
    app.get("/v1/batches/{id}", **secured, response_model=Batch)(api.batch)
    app.post("/v1/batches/{id}/cancel", **secured, response_model=Batch)(api.cancel_batch)
    app.get("/v1/search", **secured, response_model=Found)(api.search)
    app.get("/health", response_model=Health)(api.health)
    app.get("/docs", include_in_schema=False)(lambda: HTMLResponse(_page(app.openapi())))

    async def refuse(request: Request, error: Exception) -> Response:
        code = getattr(error, "http_status", 429 if isinstance(error, Busy) else 422)
        headers = {"Retry-After": "5"} if code == 429 else None
        return JSONResponse({"detail": str(error)}, code, headers)

    async def explain(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = " ".join(map(str, first["loc"][1:]))
        return JSONResponse({"detail": f"{where or 'the call'}: {first['msg']}; see /docs"}, 422)

    async def full(request: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        if error.errno not in FULL:
            raise error
        return JSONResponse({"detail": no_room(error)}, NO_ROOM)

    async def unanswered(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, OSError):  # of a body that was read
            return await full(request, error.__cause__)
        path = request.url.path[:100]
        said = {404: f"there is nothing at {path!r}", 405: f"{request.method[:20]} is no call of {path!r}"}
        detail = f"{said.get(error.status_code, error.detail)}; see /docs"
        return JSONResponse({"detail": detail}, error.status_code, error.headers)  # among them which calls there are

    app.add_exception_handler(ClipcapError, refuse)
    app.add_exception_handler(OSError, full)
    app.add_exception_handler(HTTPException, unanswered)
    app.add_exception_handler(RequestValidationError, explain)
    largest = api.queue.most_bytes + LARGEST_CALL
    app.add_middleware(Guard, names=names, largest_upload=largest, api_key=api_key, open=OPEN, as_json=True)  # type: ignore[arg-type,unused-ignore]
    return app


def _page(description: dict[str, Any]) -> str:
    """The OpenAPI description to read; its usual pages fetch scripts from elsewhere."""
    parts = []
    for path, methods in description["paths"].items():
        for method, call in methods.items():
            body = json.dumps({key: call.get(key) for key in ("parameters", "requestBody") if key in call}, indent=1)
            title = f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(call.get('description', ''))}</p>"
            parts.append(f"{title}<details><summary>input</summary><pre>{html.escape(body)}</pre></details>")
    schemas = html.escape(json.dumps(description["components"]["schemas"], indent=1))
    return (
        '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>clipcap-video</title>'
        f'<h1>clipcap-video</h1><p>As <a href="openapi.json">OpenAPI</a>.</p>{"".join(parts)}'
        f"<h2>Types</h2><pre>{schemas}</pre></html>"
    )


def serve(
    captions: CaptionQueue,
    host: str,
    port: int,
    *,
    root: Path | None = None,
    search: VideoSearch | None = None,
    api_key: str | None = None,
    wording: Wording | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Answers until Ctrl-C or SIGTERM, then ends within three seconds. Raises ClipcapError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening, tempfile.TemporaryDirectory(prefix="clipcap-video-api-") as folder:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except Exception as error:  # a name that is none has errors of its own
            reason = getattr(error, "strerror", None) or first_line(error)
            raise ClipcapError(f"cannot listen at port {port} of {host!r} ({reason}); give another one") from None
        api = Api(captions, Path(folder), root, search, wording or Wording())
        app = build(api, (host, socket.gethostname()), api_key)
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1, lifespan="off")
        server = uvicorn.Server(config)
        with stopped_by_signals(threading.Event()) as stop, captions:
            running = threading.Thread(target=server.run, args=([listening],), name="http", daemon=True)
            running.start()
            tell(f"answering at http://{host}:{listening.getsockname()[1]}, described at /docs; Ctrl-C ends it")
            while running.is_alive() and not stop.wait(0.2):
                pass
            captions.close()
            server.should_exit = True
            running.join(timeout=1.5)
