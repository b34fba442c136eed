"""Frame extraction with CLIP ViT-B/32 (random weights, full size) against its reference.

    python benchmarks/extraction.py                     # clips that it makes
    python benchmarks/extraction.py --videos DIR        # yours
    python benchmarks/extraction.py --long_minutes 10   # also one made 1080p video of that length

*Reference*: every frame of a video is decoded and preprocessed with PIL, 28 are encoded in float32, video by video.
*Bare encoder*: a third as many frames, in memory already. *Floor*: 8.8 GFLOP a frame at the speed of a bare matrix
product; for whole videos the decoder's own time, on all cores, comes on top.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from common import Row, apart, best_seconds, clock, product_rate, quiet_libraries, run

FRAMES = 28
GFLOP_A_FRAME = 8.8
SIDE = 224


def make_clip(path: Path, seconds: float, size: tuple[int, int] = (320, 240), fps: int = 30) -> Path:
    """A moving pattern with some noise, as H.264 with ffmpeg's own settings."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 24, (height, width, 3), dtype=np.uint8)

    def frame(number: int) -> np.ndarray:
        wave = np.sin((columns + 3 * number) / 40) + np.cos((rows - 2 * number) / 60)
        return (np.stack([wave, np.roll(wave, 40), -wave], -1) * 50 + 115).astype(np.uint8) + np.roll(noise, number, 1)

    from imageio_ffmpeg import get_ffmpeg_exe  # of the extra bench

    source = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    # A minute is encoded and repeated: a decoder does the same work for either.
    loops = max(1, math.ceil(seconds / 60))
    first = path if loops == 1 else path.with_stem(f"{path.stem}_part")
    coding = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
    command = [get_ffmpeg_exe(), "-y", "-v", "error"]
    with subprocess.Popen([*command, *source, *coding, str(first)], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number in range(int(seconds / loops * fps)):
            process.stdin.write(frame(number).tobytes())
    if loops > 1:
        subprocess.run([*command, "-stream_loop", str(loops - 1), "-i", first, "-c", "copy", path], check=True)
        first.unlink()
    return path


def random_clip() -> torch.nn.Module:
    """OpenAI's CLIP ViT-B/32 with random weights."""
    quiet_libraries()
    from clipcap_video.encoders.clip import CLIP

    torch.manual_seed(0)
    return CLIP(512, SIDE, 12, 768, 32, 77, 49408, 512, 8, 12).eval().requires_grad_(False)


def our_encoder(precision: str):
    from clipcap_video.devices import pick_device
    from clipcap_video.encoders.clip import ClipEncoder

    return ClipEncoder("ViT-B/32", random_clip(), pick_device("cpu"), precision)


def reference(videos: list[Path]) -> tuple[float, np.ndarray]:
    """The reference as the head of this file describes it: seconds, and features [videos * 28, 512]."""
    from clip.clip import _transform
    from PIL import Image

    network, transform = random_clip(), _transform(SIDE)
    torch.set_grad_enabled(False)
    features = []
    start = clock()
    for video in videos:
        capture, images = cv2.VideoCapture(str(video)), []
        while True:
            good, frame = capture.read()
            if not good:
                break
            images.append(transform(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))))
        kept = np.linspace(0, len(images) - 1, FRAMES).round().astype(int)
        features.append(network.encode_image(torch.stack([images[index] for index in kept])))
    return clock() - start, torch.cat(features).numpy()


def ours(videos: list[Path], key_frames: bool = False) -> tuple[float, int]:
    """Seconds and frames of our extraction, encoder and threads warm as in the middle of a long run."""
    from clipcap_video.features.extract import extract
    from clipcap_video.video.sampling import SamplingSpec

    encoder = our_encoder("bf16")
    encoder.encode_images(torch.zeros(16, 3, SIDE, SIDE, dtype=torch.uint8))
    with tempfile.TemporaryDirectory() as out:
        named = {f"{number}": video for number, video in enumerate(videos)}
        start = clock()
        summary = extract(named, encoder, SamplingSpec(frames=FRAMES, key_frames=key_frames), Path(out), progress=False)
        return clock() - start, summary.frames


def bare(count: int) -> dict[str, float]:
    """Frames a second of the bare encoder, ours and as its library runs it, with the floor in the same process."""
    from clipcap_video.devices import autocast, pick_device

    encoder, network = our_encoder("bf16"), random_clip()
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8)
    pixels = encoder.pixels.normalize(images[:28])
    torch.set_grad_enabled(False)
    exact = network.encode_image(pixels)

    def under_autocast() -> None:
        with autocast(pick_device("cpu"), "bf16"):
            network.encode_image(pixels)

    distance = 1 - torch.nn.functional.cosine_similarity(exact, encoder.encode_images(images[:28])).min()
    return {
        "float32": 28 / best_seconds(lambda: network.encode_image(pixels), 2),
        "autocast": 28 / best_seconds(under_autocast),
        "ours": count / best_seconds(lambda: encoder.encode_images(images), 1),
        "floor": product_rate("bf16") / (GFLOP_A_FRAME * 1e9),
        "distance": float(distance),
    }


def decode_alone(videos: list[Path], key_frames: bool = False) -> float:
    """Seconds of one core that reading the kept frames takes, without encoding them."""
    from clipcap_video.video.reader import SampledVideo, one_opencv_thread
    from clipcap_video.video.sampling import SamplingSpec

    encoder = our_encoder("bf16")
    torch.set_num_threads(1)
    start = time.process_time()
    with one_opencv_thread():
        for video in videos:
            spec = SamplingSpec(frames=FRAMES, key_frames=key_frames)
            list(SampledVideo(video, spec, encoder.preprocess, threads=1))
    return time.process_time() - start


def compare(
    what: str,
    videos: list[Path],
    encoder: dict[str, float],
    reference_seconds: float | None,
    key_frames: bool = False,
) -> list[Row]:
    run, decoding = apart(ours, videos, key_frames), apart(decode_alone, videos, key_frames).value
    seconds, frames = run.value
    floor = frames / (frames / encoder["floor"] + decoding / torch.get_num_threads())
    rate = frames / seconds
    before = None if reference_seconds is None else len(videos) * FRAMES / reference_seconds
    note = f"{rate / encoder['ours']:.0%} of the bare encoder; peak memory {run.memory / 2**30:.2f} GiB"
    return [Row(what, "frames/s", before, rate, floor, f"{note}; decoding {decoding:.1f} s of a core")]


def measure(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        if options.videos:
            clips = sorted(path for path in options.videos.iterdir() if path.is_file())
        else:
            clips = [make_clip(Path(folder, f"{number}.mp4"), 10) for number in range(8)]
        encoder = apart(bare, len(clips) * options.repeat * FRAMES // 3).value
        seconds = None if options.skip_reference else apart(reference, clips).value[0] * options.repeat
        rows = [
            Row("bare encoder", "frames/s", encoder["autocast"], encoder["ours"], encoder["floor"],
                f"reference: autocast; float32 {encoder['float32']:.1f}; cosine distance {encoder['distance']:.1e}"),
            *compare(f"{len(clips)} short clips", clips * options.repeat, encoder, seconds),
        ]  # fmt: skip
        long = options.long_clip
        if long is None and options.long_minutes:
            long = make_clip(Path(folder, "long.mp4"), options.long_minutes * 60, (1920, 1080))
        if long is not None:
            seconds = apart(reference, [long]).value[0] if options.long_reference else None
            rows += compare("one long video", [long], encoder, seconds)
            rows += compare("the same, --key_frames", [long], encoder, seconds, key_frames=True)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of short clips; without it, eight of 10 s are made")
    parser.add_argument("--repeat", type=int, default=3, help="how often our run goes over the short clips")
    parser.add_argument("--skip_reference", action="store_true")
    parser.add_argument("--long_minutes", type=float, default=0, help="also a made 1080p video of so many minutes")
    parser.add_argument("--long_clip", type=Path, help="or this video")
    parser.add_argument("--long_reference", action="store_true", help="run the reference on the long video too")
    run(measure, parser)


if __name__ == "__main__":
    main()
