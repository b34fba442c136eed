"""Requests a second, and how long they take, of `clipcap-video serve --api` with the starter captioner.

    python benchmarks/serving.py --videos FOLDER

Each request uploads a video, one after another or many at once; what is uploaded at once is captioned together.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from common import Row, run

from clipcap_video.video.files import find_videos


def measure(options: argparse.Namespace) -> list[Row]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    videos = [path.read_bytes() for path in find_videos(options.videos).values()]
    command = [sys.executable, "-m", "clipcap_video", "serve", "--api", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        print(server.stdout.readline().strip())
        print(f"{len(videos)} videos, {np.mean([len(video) for video in videos]) / 1e6:.2f} MB on average")
        place = f"http://127.0.0.1:{port}/v1/captions"
        return [asked(place, videos, options.requests, parallel) for parallel in options.parallel]
    finally:
        server.terminate()
        server.wait()


def asked(place: str, videos: list[bytes], requests: int, parallel: int) -> Row:
    def ask(video: bytes) -> float:
        started = time.perf_counter()
        httpx.post(place, files={"file": ("clip.mp4", video)}, timeout=600).raise_for_status()
        return time.perf_counter() - started

    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(ask, videos[:parallel]))  # warm
        started = time.perf_counter()
        seconds = list(pool.map(ask, itertools.islice(itertools.cycle(videos), requests)))
        taken = time.perf_counter() - started
    p50, p95 = np.percentile(seconds, [50, 95])
    what, note = f"{parallel} at once", f"median {p50:.2f} s, p95 {p95:.2f} s"
    return Row(what, "requests/s", None, requests / taken, None, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder of the videos that are sent, in turn")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 4, 16])
    run(measure, parser)


if __name__ == "__main__":
    main()
