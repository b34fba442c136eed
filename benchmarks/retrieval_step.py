"""Time and memory of one end-to-end training step of CLIP4Clip at full size: ViT-B/32 with random weights.

Frames a second, seconds a step and the largest memory of the process, for each precision asked for.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from pathlib import Path

import torch
from common import Row, run

from clipcap_video.devices import autocast, pick_device
from clipcap_video.retrieval.model import RetrievalBatch, RetrievalConfig, RetrievalModel
from clipcap_video.retrieval.video_clip import VideoClip

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from clip.model import CLIP


def measure(options: argparse.Namespace) -> list[Row]:
    torch.manual_seed(0)
    weights = CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).state_dict()
    clip = VideoClip(weights, Path("random"))
    del weights
    clip.freeze(0)
    shape = RetrievalConfig("meanP", 512, 512, 512, False, max_frames=options.max_frames)
    device = pick_device()
    model = RetrievalModel(shape, clip).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-7)
    frames = torch.randint(0, 256, (options.bs, options.max_frames, 3, 224, 224), dtype=torch.uint8)
    text = clip.tokenize(["a man is riding a horse along the beach"] * options.bs, 32)
    batch = RetrievalBatch(frames, torch.ones(frames.shape[:2], dtype=torch.bool), text, torch.arange(options.bs))
    rows = []
    for precision in options.precision:
        seconds = []
        for _ in range(options.steps + 1):
            started = time.perf_counter()
            with autocast(device, precision):
                loss = model(batch.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - started)
        best = min(seconds[1:])  # the first one also sets things up
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        what, note = f"{precision} on {device}", f"{best:.2f} s a step of {options.bs} videos; {peak:.2f} GiB at most"
        rows.append(Row(what, "frames/s", None, options.bs * options.max_frames / best, None, note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bs", type=int, default=4)
    parser.add_argument("--max_frames", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    run(measure, parser)


if __name__ == "__main__":
    main()
