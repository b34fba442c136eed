"""Training GPT-2 small (random weights) with 20 prefix tokens on 20 captions a video of MSR-VTT's lengths.

    python benchmarks/training.py

*Reference*: one row a caption, padded to the longest caption of the data set, float32, logits over every position.
Ours is the model and the optimiser of `train_vtt.py` on packed captions. Both have the same mapping network (two
layers), and both run whole steps: forward, backward, AdamW. Peak memory is compared at as many captions a step.
*Floor*: the products that have to be computed for the tokens that are there, at the speed of a bare matrix product.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Measured, Row, apart, clock, product_rate, run
from decoding import BLOCK_WEIGHTS, VOCABULARY, WIDTH, language_model

PREFIX, CAPTIONS, FRAMES, FEATURES = 20, 20, 28, 512
# GPT-2 tokens -> captions of that length, in the 82,220 captions of 4,111 videos of MSR-VTT.
LENGTHS = {
    3: 212, 4: 3601, 5: 6531, 6: 9275, 7: 8811, 8: 8487, 9: 8280, 10: 7730, 11: 6400, 12: 4959, 13: 3882, 14: 2999,
    15: 2319, 16: 1854, 17: 1395, 18: 1127, 19: 904, 20: 727, 21: 556, 22: 423, 23: 351, 24: 258, 25: 221, 26: 196,
    27: 154, 28: 115, 29: 101, 30: 93, 31: 63, 32: 37, 33: 32, 34: 23, 35: 22, 36: 17, 37: 11, 38: 11, 39: 9, 40: 4,
    41: 6, 42: 5, 43: 2, 44: 2, 45: 2, 46: 3, 48: 1, 49: 1, 51: 1, 52: 1, 54: 1, 56: 1, 58: 1, 59: 1, 63: 1, 73: 1,
}  # fmt: skip


def captions(videos: int) -> list[list[list[int]]]:
    """Token lists of 20 captions for each video, without an end token."""
    random = np.random.default_rng(0)
    weights = np.array(list(LENGTHS.values()), dtype=float)
    lengths = random.choice(list(LENGTHS), (videos, CAPTIONS), p=weights / weights.sum())
    return [[random.integers(0, VOCABULARY - 1, length).tolist() for length in row] for row in lengths]


def features(videos: int) -> torch.Tensor:
    return torch.randn(videos, FRAMES, FEATURES, generator=torch.Generator().manual_seed(2))


def captioner(only_prefix: bool, packed: bool) -> Any:
    from clipcap_video.models.language_model import fuse_activations
    from clipcap_video.models.mapping.base import MappingConfig
    from clipcap_video.models.prefix import PrefixCaptioner
    from clipcap_video.models.prefix_config import CaptionerConfig

    model = language_model().requires_grad_(True)
    if packed:
        fuse_activations(model)
    mapping = MappingConfig("transformer", FEATURES, WIDTH, PREFIX, FRAMES, num_layers=2)
    return PrefixCaptioner(CaptionerConfig(mapping, "gpt2", "", only_prefix), model, None).train()


def reference(rows: int, only_prefix: bool, steps: int) -> float:
    """Seconds a step of `rows` captions."""
    model = captioner(only_prefix, packed=False)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)
    longest = max(LENGTHS)
    tokens = torch.zeros(rows, longest, dtype=torch.int64)
    flat = [caption for video in captions(-(-rows // CAPTIONS)) for caption in video][:rows]
    for row, caption in enumerate(flat):
        tokens[row, : len(caption)] = torch.tensor(caption)
    own = features(rows)
    mask = torch.ones(rows, FRAMES, dtype=torch.bool)
    read = torch.cat([torch.ones(rows, PREFIX), (tokens > 0).float()], 1)

    def step() -> None:
        prefix = model.mapping(own, mask)
        inputs = torch.cat([prefix, model.language_model.get_input_embeddings()(tokens)], 1)
        logits = model.language_model(inputs_embeds=inputs, attention_mask=read, use_cache=False).logits
        logits = logits[:, PREFIX - 1 : -1]
        F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens.flatten(), ignore_index=0).backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, steps)


def ours(videos: int, only_prefix: bool, steps: int, precision: str) -> tuple[float, float]:
    """Seconds a step of `videos` with 20 captions each, and its floor in seconds."""
    from clipcap_video.devices import autocast, pick_device
    from clipcap_video.models.packing import pack
    from clipcap_video.optimisation import make_optimizer, parameter_groups

    model = captioner(only_prefix, packed=True)
    model.keep_in(precision, pick_device("cpu"), frozen_only=True)
    optimizer = make_optimizer(parameter_groups([(model.parameters(), 1e-5)], weight_decay=0.01), lr=1e-5)
    lists = [[[*caption, VOCABULARY - 1] for caption in video] for video in captions(videos)]
    batch = pack(list(features(videos).numpy()), lists)

    def step() -> None:
        with autocast(pick_device("cpu"), precision):
            loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = timed(step, steps)
    real = int((batch.caption >= 0).sum()) + videos * PREFIX
    # Forward and the gradient of the inputs; the gradient of the weights where they are trained.
    passes = 2 if only_prefix else 3
    head = len((batch.label_row * batch.tokens.shape[1] + batch.label_column).unique())
    products = 2 * passes * (real * BLOCK_WEIGHTS + head * WIDTH * VOCABULARY)
    return seconds, products / product_rate(precision)


def timed(step: Any, steps: int) -> float:
    step()
    start = clock()
    for _ in range(steps):
        step()
    return (clock() - start) / steps


def memory_note(mine: Measured, other: Measured, rows: int) -> str:
    def gib(run: Measured) -> str:
        return f"{run.memory / 2**30:.2f} GiB"

    return f"peak memory at {rows} captions a step: {gib(mine)}, reference {gib(other)}"


def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for mode in ("only_prefix", "fine_tuning"):
        if options.mode not in ("both", mode):
            continue
        only_prefix = mode == "only_prefix"
        before = apart(reference, options.rows, only_prefix, 1)
        rate = options.rows / before.value
        for precision in ("fp32", "bf16"):
            seconds, floor = apart(ours, options.videos, only_prefix, options.steps, precision).value
            count = options.videos * CAPTIONS
            small = apart(ours, options.rows // CAPTIONS, only_prefix, 1, precision)
            note = memory_note(small, before, options.rows)
            rows.append(Row(f"--{mode}, {precision}", "captions/s", rate, count / seconds, count / floor, note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8, help="videos a step of ours")
    parser.add_argument("--rows", type=int, default=40, help="captions a step of the reference")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--mode", choices=["both", "only_prefix", "fine_tuning"], default="both")
    run(measure, parser)


if __name__ == "__main__":
    main()
