"""Videos a second of two Ray actors with a core each, against one plain run that has both cores.

    python benchmarks/ray_extraction.py --videos clips/ --encoder efficientnet-lite2 [--actors 2] [--copies 8]

Both run on this machine, one after the other, on `copies` of each clip. The rate is that between the first features
written and the last, so that what starts once (Ray, the models) is told apart; the ratio is the efficiency.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Row, run


def timed(videos: Path, out: Path, encoder: str, *options: str) -> tuple[float, float]:
    """Videos a second once it runs, and seconds in all."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "clipcap_video", "extract", "--videos", str(videos), "--out", str(out)]
    subprocess.run([*command, "--encoder", encoder, *options], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    written = sorted(file.stat().st_mtime for file in out.glob("*.safetensors"))
    # Ray hands over a batch at once: those that came with the first do not count.
    first = [when for when in written if when - written[0] < 0.5]
    return (len(written) - len(first)) / (written[-1] - first[-1]), seconds


def measure(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        for clip in options.videos.iterdir():
            for number in range(options.copies):
                (videos / f"{number}-{clip.name}").symlink_to(clip.resolve())
        cores = options.actors
        plain, plain_all = timed(videos, Path(folder) / "plain", options.encoder, "--workers", str(cores))
        ray = ["--engine", "ray", "--actors", str(cores), "--workers", "1"]
        spread, spread_all = timed(videos, Path(folder) / "ray", options.encoder, *ray)
    note = f"reference: the plain run; in all {spread_all:.0f} s and {plain_all:.0f} s"
    return [Row(f"{cores} Ray actors", "videos/s", plain, spread, None, note)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--encoder", default="efficientnet-lite2")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--copies", type=int, default=8)
    run(measure, parser)


if __name__ == "__main__":
    main()
