"""`clipcap-video watch` as it is typed: what it prints and writes, how it ends, and ten minutes of a bad line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from clipcap_video.captioning.captioner import Captioner
from tests.captioning.conftest import captioner  # noqa: F401  (a fixture)
from tests.captioning.test_webhook import Receiver, receiver  # noqa: F401  (a fixture)
from tests.commands import ROOT, refused, run
from tests.streams import RtspServer, TcpServer, running, write_stream
from tests.test_readme import NEEDS_STARTER

LENGTHS = [30, 20, 30]  # at 10 frames a second


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_stream(tmp_path / "recording.ts", LENGTHS)


@pytest.fixture
def small(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("clipcap_video.cli.watch.load_captioner", lambda config: captioner)


def watch(source: object, *options: object) -> Any:
    return run("clipcap-video", "watch", source, "--patience", "0.3", *options)


@pytest.mark.usefixtures("small")
def test_captions_go_to_the_terminal_a_file_and_an_address(
    recording: Path,
    receiver: Receiver,  # noqa: F811
    tmp_path: Path,
) -> None:
    out = tmp_path / "logs" / "seen.jsonl"
    done = watch(recording, "--out", out, "--webhook", receiver.url)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["start"] for line in lines] == pytest.approx([0, 3, 5], abs=0.01)
    assert all(line["caption"].startswith("it says") for line in lines)
    assert all(datetime.fromisoformat(line["at"]) <= datetime.now(timezone.utc) for line in lines)
    assert all(line["dropped_frames"] == line["dropped_segments"] == 0 for line in lines)
    printed = done.stdout.splitlines()
    assert [line.split("  ")[1:] for line in printed] == [
        [clock, line["caption"]] for clock, line in zip(("0:00", "0:03", "0:05"), lines, strict=True)
    ]
    assert receiver.taken == lines
    assert "3 captions; 0 frames and 0 segments dropped" in done.stderr
    assert "webhook: 3 sent" in done.stderr

    # A second run adds to the file.
    assert watch(recording, "--out", out).returncode == 0
    assert len(out.read_text().splitlines()) == 6


@pytest.mark.usefixtures("small")
def test_what_is_refused(recording: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not yours")
    assert "no file of clipcap-video watch" in refused("clipcap-video", "watch", recording, "--out", notes)
    assert notes.read_text() == "not yours"
    assert "is the source" in refused("clipcap-video", "watch", recording, "--out", recording)
    assert "no web address" in refused("clipcap-video", "watch", recording, "--webhook", "there")
    assert "no source given" in refused("clipcap-video", "watch")
    assert "twice the shortest" in refused("clipcap-video", "watch", recording, "--min_shot", "5")
    assert "train-consensus" in refused("clipcap-video", "watch", recording, "--min_support", "0.5")
    assert "/dev/null" in refused("clipcap-video", "watch", "/dev/null")


class Watching:
    """A running `clipcap-video watch` with the captioner in the box, and what it said so far."""

    def __init__(self, folder: Path, source: str, *options: object) -> None:
        self.out = folder / "seen.jsonl"
        command = [
            sys.executable,
            "-m",
            "clipcap_video",
            "watch",
            source,
            "--out",
            self.out,
            "--device",
            "cpu",
            *options,
        ]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()] if self.out.exists() else []

    def said(self) -> str:
        return Path(self.log.name).read_text()

    def wait_for(self, captions: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while len(self.lines()) < captions:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def end(self, by: signal.Signals) -> float:
        """Seconds to the end, which has to be a success."""
        began = time.monotonic()
        self.process.send_signal(by)
        assert self.process.wait(20) == 0, self.said()
        assert "Traceback" not in self.said()
        return time.monotonic() - began

    def memory(self) -> int:
        """Resident megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024


@pytest.mark.slow
@NEEDS_STARTER
@pytest.mark.parametrize("kind", [RtspServer, TcpServer])
def test_a_line_is_cut_and_restored(kind: Any, tmp_path: Path) -> None:
    file = write_stream(tmp_path / ("live.mkv" if kind is RtspServer else "live.ts"), [30, 25], repeats=20)
    server = RtspServer(file) if kind is RtspServer else TcpServer(file, 110.0)
    with running(server), Watching(tmp_path, server.url, "--patience", 3, "--repeats") as watching:
        watching.wait_for(3)
        server.cut()
        cut_at = datetime.now(timezone.utc)
        time.sleep(4)
        server.start()
        back_at = datetime.now(timezone.utc)
        before = len([line for line in watching.lines() if datetime.fromisoformat(line["at"]) < cut_at])
        watching.wait_for(before + 4)
        assert watching.end(signal.SIGINT) < 10
        lines, said = watching.lines(), watching.said()
    assert "trying again in 1 s" in said
    assert "is back" in said
    assert "opened again once" in said
    times = [datetime.fromisoformat(line["at"]) for line in lines]
    assert times == sorted(times)
    down = timedelta(seconds=1)  # what a reader holds back
    assert not [at for at in times if cut_at + down < at < back_at]
    starts = [line["start"] for line in lines]
    assert starts == sorted(starts)
    # Both clocks tell the same, across the cut.
    assert all(
        abs((at - times[0]).total_seconds() - (start - starts[0])) < 1 for at, start in zip(times, starts, strict=True)
    )


@pytest.mark.slow
@NEEDS_STARTER
def test_sigterm_ends_one_that_waits_for_a_dead_server(tmp_path: Path) -> None:
    with running(TcpServer(write_stream(tmp_path / "live.ts", LENGTHS), 8.0)) as server:
        with Watching(tmp_path, server.url) as watching:
            watching.wait_for(1)
            server.cut()
            time.sleep(2)
            assert watching.end(signal.SIGTERM) < 10
        server.start()


@pytest.mark.slow
@NEEDS_STARTER
def test_standard_input_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clipcap_video", "watch", "-", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with write_stream(tmp_path / "live.ts", LENGTHS).open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "watching stdin" in done.stderr
    assert done.stdout


@pytest.mark.slow
@NEEDS_STARTER
def test_ten_minutes_of_a_bad_line_in_bounded_memory(tmp_path: Path) -> None:
    """A real RTSP server where there is one; every minute and a half it is killed for some seconds."""
    shots = [30, 55, 25, 200, 40]
    try:
        server: RtspServer | TcpServer = RtspServer(
            write_stream(tmp_path / "live.mkv", shots, repeats=18, size="640x360")
        )
    except pytest.skip.Exception:
        server = TcpServer(write_stream(tmp_path / "live.ts", shots, repeats=18, size="640x360"), 630.0)
    cuts = 0
    over = threading.Event()
    memory: list[int] = []
    with running(server), Watching(tmp_path, server.url, "--patience", 5, "--repeats") as watching:
        watching.wait_for(1)
        began = time.monotonic()

        def measure() -> None:
            while not over.wait(1.0):
                memory.append(watching.memory())

        meter = threading.Thread(target=measure)
        meter.start()
        try:
            while time.monotonic() - began < 600:
                time.sleep(85)
                assert watching.process.poll() is None, watching.said()
                server.cut()
                time.sleep(2 + 3 * (cuts % 3))
                server.start()
                cuts += 1
            captions = len(watching.lines())
            watching.wait_for(captions + 1)
        finally:
            over.set()
            meter.join()
        assert watching.end(signal.SIGINT) < 10
        lines, said = watching.lines(), watching.said()
    minutes = [int(median(memory[start : start + 60])) for start in range(0, len(memory) - 30, 60)]
    print(f"{cuts} cuts, {len(lines)} captions, MB in each minute: {minutes}; {said.splitlines()[-1]}")
    assert f"opened again {cuts} times" in said
    assert len(lines) > 100  # of 200 to come, less the cuts
    gaps = [later["start"] - earlier["start"] for earlier, later in pairwise(lines)]
    assert max(gaps) < 30
    # Allocators keep what a few reconnections needed; it does not go on growing.
    assert max(minutes[-3:]) - min(minutes[1:3]) < 100
    assert max(memory) - minutes[0] < 250
