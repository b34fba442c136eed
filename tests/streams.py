"""Live sources on the loopback: MPEG-TS over TCP from a plain socket, and a real RTSP server where one is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.clips import ffmpeg, write_shots

# Run by an interpreter that has GStreamer's bindings: serves a Matroska file with H.264, from its beginning to each
# client.
GSTREAMER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[2])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f'( filesrc location="{sys.argv[1]}" ! matroskademux ! h264parse ! rtph264pay name=pay0 )')
server.get_mount_points().add_factory("/live", factory)
assert server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""
PROBE = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def write_stream(path: Path, lengths: Sequence[int], fps: int = 10, repeats: int = 1, size: str = "64x48") -> Path:
    """Shots of so many frames each, as H.264 with a key frame a second. repeats: how often they follow one another."""
    shots = write_shots(path.with_name(f"{path.stem}-shots.mkv"), lengths, fps)
    coded = ("-s", size, "-c:v", "libx264", "-preset", "ultrafast", "-g", fps, "-bf", 0, "-pix_fmt", "yuv420p")
    once = path.with_name(f"{path.stem}-once.mkv")
    ffmpeg("-i", shots, *map(str, coded), once)
    ffmpeg("-stream_loop", str(repeats - 1), "-i", once, "-c", "copy", path)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TcpServer:
    """Sends a file to each client, from its beginning, in `seconds`. It can be cut and started again."""

    def __init__(self, file: Path, seconds: float) -> None:
        self.data, self.seconds, self.port = file.read_bytes(), seconds, free_port()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.clients = 0
        self.start()

    def start(self) -> None:
        self._cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener, self._cut), daemon=True).start()

    def cut(self) -> None:
        self._cut.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                self.clients += 1
                threading.Thread(target=self._send, args=(client, cut), daemon=True).start()

    def _send(self, client: socket.socket, cut: threading.Event) -> None:
        began, sent = time.monotonic(), 0
        with client, suppress(OSError):
            while sent < len(self.data) and not cut.is_set():
                due = int(len(self.data) * min(1.0, (time.monotonic() - began) / self.seconds))
                due -= due % 188  # whole packets of the transport stream
                client.sendall(self.data[sent:due])
                sent = due
                cut.wait(0.02)


class RtspServer:
    """A real RTSP server over a file, in a process of its own, that can be killed and started again."""

    def __init__(self, file: Path) -> None:
        self.file, self.port = file, free_port()
        self.python = next(
            (path for path in (sys.executable, shutil.which("python3", path="/usr/bin")) if _has_gstreamer(path)), None
        )
        if self.python is None:
            pytest.skip("no RTSP server: install gir1.2-gst-rtsp-server-1.0, python3-gi, gstreamer1.0-plugins-bad")
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self.start()

    def start(self) -> None:
        command = [str(self.python), "-c", GSTREAMER, str(self.file), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def cut(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(server: TcpServer | RtspServer) -> Iterator[TcpServer | RtspServer]:
    try:
        yield server
    finally:
        server.cut()


def _has_gstreamer(python: str | None) -> bool:
    return python is not None and subprocess.run([python, "-c", PROBE], capture_output=True).returncode == 0
