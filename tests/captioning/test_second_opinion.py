"""Another model is asked over HTTP: a stand-in that speaks the protocol, and does all that such servers do wrong."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clipcap_video.captioning.config import InferConfig
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.second_opinion import PROMPT, SecondOpinion
from clipcap_video.errors import ClipcapError
from tests.cli.conftest import Project, clips, project, with_ranker  # noqa: F401  (fixtures)
from tests.clips import numbered_frame, write_clip
from tests.commands import refused, run

# ruff: noqa: F811
pytest.importorskip("openai")


@dataclass
class Server:
    """answer: of the request's number and its content, what is sent: a status and a body.

    pause: seconds between two characters of it.
    """

    url: str
    answer: Callable[[int, dict[str, Any]], tuple[int, str]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    pause: float = 0.0


def said(text: object) -> tuple[int, str]:
    message = {"role": "assistant", "content": text}
    return 200, json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message}],
        }
    )


@pytest.fixture
def server() -> Iterator[Server]:
    at_once, lock = [0], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                at_once[0] += 1
                found.most_at_once = max(found.most_at_once, at_once[0])
                number = len(found.requests)
                found.requests.append({"path": self.path, **content})
            status, body = found.answer(number, content)
            with lock:
                at_once[0] -= 1
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Retry-After", "0")
                self.end_headers()
                for part in body if found.pause else [body]:
                    self.wfile.write(part.encode())
                    time.sleep(found.pause)
            except OSError:  # the client waited no longer
                pass

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{http.server_port}/v1", lambda number, content: said("A red bus."))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield found
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.avi", frames=20, codec="ffv1")


def asking(server: Server, **options: Any) -> SecondOpinion:
    config = InferConfig(second_opinion=server.url, second_model="vlm", second_jobs=3, second_timeout=1.0, **options)
    return SecondOpinion(config)


def doubted(clip: Path, support: float | None = 0.2, video: str = "a") -> Prediction:
    return Prediction(video, [Caption("a dog", -1.0, -1.0, 2, support=support)], [0.0, 0.5, 1.0, 1.9], path=str(clip))


def test_captions_of_little_support_are_replaced_and_kept_beside(server: Server, clip: Path) -> None:
    second = asking(server, below=0.5, second_frames=3)
    sure, unknown = doubted(clip, 0.5), doubted(clip, None)
    first, *others = second([doubted(clip), sure, unknown])
    assert [(one.text, one.model) for one in first.captions] == [("A red bus.", "vlm"), ("a dog", None)]
    assert str(first.captions[0]) == "A red bus. (vlm)"
    assert others == [sure, unknown]
    assert second.describe() == "second opinion of vlm: 1 asked, 1 answered"
    (request,) = server.requests
    assert (request["path"], request["model"]) == ("/v1/chat/completions", "vlm")
    *images, text = request["messages"][0]["content"]
    assert text["text"] == PROMPT.read_text().strip()
    # The pictures are those of the frames at these times (10 a second), as JPEG.
    for image, number in zip(images, (0, 5, 19), strict=True):
        kind, data = image["image_url"]["url"].split(",")
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert kind == "data:image/jpeg;base64"
        expected = [np.abs(picture.astype(int) - numbered_frame(other)).mean() for other in range(20)]
        assert int(np.argmin(expected)) == number


FAULTS: dict[str, tuple[tuple[int, str], str]] = {
    "busy": ((429, '{"error": {"message": "slow down"}}'), "refused (429)"),
    "broken": ((500, "oops"), "refused (500)"),
    "no such model": ((404, '{"error": {"message": "no such model"}}'), "refused (404)"),
    "no JSON": ((200, "{"), "nonsense"),
    "another kind of JSON": ((200, "[1, 2]"), "nonsense"),
    "no choices": ((200, '{"choices": []}'), "nonsense"),
    "no choices at all": ((200, "{}"), "nonsense"),
    "no text": (said(None), "nonsense"),
    "empty text": (said(' "" '), "nonsense"),
    "a list": (said([{"type": "text", "text": "a bus"}]), "nonsense"),
    "an essay": (said("a bus " * 100), "nonsense"),
    "a thought alone": (said("<think>a bus? a tram?"), "nonsense"),
    "signs": (said("\x1b[31m a bus"), "nonsense"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_ours_stays_and_it_is_counted(server: Server, clip: Path, fault: str) -> None:
    answer, counted = FAULTS[fault]
    server.answer = lambda number, content: answer
    second = asking(server)
    ours = doubted(clip)
    assert second([ours]) == [ours]
    assert second.describe() == f"second opinion of vlm: 1 asked, 0 answered, 1 {counted}; where it failed ours stay"
    assert len(server.requests) <= 2


def test_a_slow_server_and_one_that_is_not_there(server: Server, clip: Path) -> None:
    def slow(number: int, content: dict[str, Any]) -> tuple[int, str]:
        time.sleep(1.5)
        return said("too late")

    server.answer = slow
    second = SecondOpinion(InferConfig(second_opinion=server.url, second_model="vlm", second_timeout=0.2))
    nowhere = SecondOpinion(InferConfig(second_opinion="http://127.0.0.1:9/v1", second_model="vlm"))
    for asked, counted in ((second, "timed out"), (nowhere, "not reached")):
        assert asked([doubted(clip)]) == [doubted(clip)]
        assert asked.counts == {counted: 1}


def test_an_answer_that_drips_is_not_waited_for(server: Server, clip: Path) -> None:
    server.pause = 0.15  # each character well within the limit of a read, all of them fifteen times the limit
    second = SecondOpinion(InferConfig(second_opinion=server.url, second_model="vlm", second_timeout=1.0))
    assert second([doubted(clip)]) == [doubted(clip)]
    assert second.counts == {"timed out": 1}


def test_a_fault_that_passes_is_tried_again(server: Server, clip: Path) -> None:
    server.answer = lambda number, content: said("a bus") if number else (503, "starting")
    second = asking(server)
    assert second([doubted(clip)])[0].text == "a bus"


def test_many_at_once_but_no_more_than_asked_for_and_in_order(server: Server, clip: Path) -> None:
    def late(number: int, content: dict[str, Any]) -> tuple[int, str]:
        time.sleep(0.05)
        return said("a bus")

    server.answer = late
    found = asking(server)([doubted(clip, video=str(number)) for number in range(9)])
    assert [one.video for one in found] == list(map(str, range(9)))
    assert server.most_at_once == 3


def test_thoughts_and_quotation_marks_are_no_part_of_a_caption(server: Server, clip: Path) -> None:
    server.answer = lambda number, content: said('<think>\nA bus?\n</think>\n "A bus\n stops" ')
    assert asking(server)([doubted(clip)])[0].text == "A bus stops"


def test_without_frames_nothing_is_sent(server: Server, tmp_path: Path) -> None:
    second = asking(server)
    gone = doubted(tmp_path / "gone.mp4")
    assert second([gone]) == [gone]
    assert (second.counts, server.requests) == ({"without frames": 1}, [])


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    with pytest.raises(ClipcapError, match="give --second_model"):
        InferConfig(second_opinion=server.url)
    with pytest.raises(ClipcapError, match="--below belongs to --second_opinion"):
        InferConfig(below=0.3)
    with pytest.raises(ClipcapError, match="gone"):
        asking(server, second_prompt=Path("gone.txt"))
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ClipcapError, match=r"pip install 'clipcap-video\[vlm\]'"):
        asking(server)


class TestCommands:
    def test_infer_and_caption_ask(self, server: Server, project: Project, clips: Path, tmp_path: Path) -> None:
        model = with_ranker(project, tmp_path, 0.9)
        shared = ["--model_dir", model, "--device", "cpu"]
        ask = ["--second_opinion", server.url, "--second_model", "vlm", "--below", "1", "--to", "csv"]
        done = run("clipcap-video", "infer", "clips", *shared, cwd=tmp_path)
        assert (done.returncode, server.requests) == (0, []), done.stderr  # never without the option
        done = run("clipcap-video", "infer", "clips", *shared, *ask, "--to", "txt", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "second opinion of vlm: 6 asked, 6 answered" in done.stderr
        assert "video0: A red bus. (vlm)" in done.stdout
        assert {file.read_text() for file in clips.glob("*.txt")} == {"A red bus.\n"}
        table = (tmp_path / "predictions.csv").read_text()
        assert table.count(",A red bus.,") == table.count(",vlm,") == 6
        caption = ["clipcap-video", "caption", "clips/video5.mp4", *shared, "--out", "made"]
        done = run(*caption, *ask, "--to", "srt", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "A red bus." in (tmp_path / "made" / "video5.srt").read_text()
        # The log knows what decided.
        assert "was begun with second opinion" in refused(*caption, "--to", "vtt", "--jsonl", cwd=tmp_path)

    def test_captions_without_support_are_no_case_for_it(
        self, server: Server, project: Project, tmp_path: Path
    ) -> None:
        ask = ["--second_opinion", server.url, "--second_model", "vlm"]
        infer = ["clipcap-video", "infer", project.videos / "video0.mp4", "--model_dir", project.out, *ask]
        assert "this captioner has no consensus network" in refused(*infer, cwd=tmp_path)
