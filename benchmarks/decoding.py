"""Beam search with GPT-2 small (random weights): 40 prefix tokens, 20 new tokens, beams of 5, 64 videos.

    python benchmarks/decoding.py

*Reference*: one video at a time in float32; the whole sequence goes through the language model at each step. It is
timed on a few videos and scaled to 64. *generate*: that of transformers, same beams, batch and precision. *Floor*: the
products that have to be computed, at the speed of a bare matrix product.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import Row, apart, clock, product_rate, quiet_libraries, run
from torch import Tensor

PREFIX, LENGTH, BEAMS = 40, 20, 5
WARM = 4  # videos before the clock starts: kernels are made when a shape is first met
WIDTH, LAYERS, VOCABULARY, END = 768, 12, 50257, 50256
BLOCK_WEIGHTS = LAYERS * 12 * WIDTH**2


def language_model(dtype: torch.dtype = torch.float32) -> Any:
    quiet_libraries()
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False).to(dtype)
    model.generation_config.pad_token_id = END
    # Random weights predict much the same everywhere; wider ones make beams that differ.
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(10)
    return model


def prefixes(videos: int) -> Tensor:
    return torch.randn(videos, PREFIX, WIDTH, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def reference(videos: int) -> tuple[float, list[tuple[list[int], float]]]:
    """Seconds, and each video's best tokens with their mean log-probability: the beam search of the ClipCap program."""
    model = language_model()
    embed = model.get_input_embeddings()
    found = []
    start = clock()
    for prefix in prefixes(videos):
        sequence, tokens = prefix[None], None
        scores, stopped, lengths = torch.zeros(1), torch.zeros(BEAMS, dtype=torch.bool), torch.ones(BEAMS)
        for _ in range(LENGTH):
            logprobs = model(inputs_embeds=sequence).logits[:, -1].log_softmax(-1)  # [beams, V]
            if tokens is None:
                scores, following = logprobs[0].topk(BEAMS)
                tokens = following[:, None]
                sequence = sequence.expand(BEAMS, -1, -1)
            else:
                logprobs[stopped] = float("-inf")
                logprobs[stopped, 0] = 0
                sums = scores[:, None] + logprobs
                lengths[~stopped] += 1
                best, places = (sums / lengths[:, None]).flatten().topk(BEAMS)
                parents, following = places // VOCABULARY, places % VOCABULARY
                lengths, stopped = lengths[parents], stopped[parents]
                tokens = torch.cat([tokens[parents], following[:, None]], 1)
                sequence, scores = sequence[parents], best * lengths
            sequence = torch.cat([sequence, embed(following)[:, None]], 1)
            stopped = stopped | (following == END)
            if stopped.all():
                break
        order = (scores / lengths).argsort(descending=True)
        best = int(order[0])
        found.append((tokens[best].tolist(), float(scores[best] / lengths[best])))
    return clock() - start, found


@torch.no_grad()
def library(videos: int, precision: str) -> float:
    """Seconds of transformers' own beam search, weights in the precision."""
    model = language_model(torch.bfloat16 if precision == "bf16" else torch.float32)
    inputs = prefixes(videos).to(model.dtype)
    mask = torch.ones(videos, PREFIX, dtype=torch.int64)
    options = {"num_beams": BEAMS, "max_new_tokens": LENGTH, "do_sample": False, "eos_token_id": END}
    model.generate(inputs_embeds=inputs[:WARM], attention_mask=mask[:WARM], **options)
    start = clock()
    model.generate(inputs_embeds=inputs, attention_mask=mask, **options)
    return clock() - start


@torch.inference_mode()
def ours(videos: int, precision: str) -> tuple[float, float, list[tuple[list[int], float]]]:
    """Seconds, floor in seconds and hypotheses of our search under the same rule, in lanes as `infer` decodes."""
    from clipcap_video.captioning.captioner import LANE_HYPOTHESES
    from clipcap_video.decoding import DecodingSettings
    from clipcap_video.decoding.search import decode
    from clipcap_video.devices import autocast, in_pieces, pick_device
    from clipcap_video.models.language_model import fuse_activations
    from clipcap_video.models.mapping.base import MappingConfig
    from clipcap_video.models.prefix import PrefixCaptioner
    from clipcap_video.models.prefix_config import CaptionerConfig
    from clipcap_video.models.prefix_decoding import PrefixDecoding

    model = language_model()
    fuse_activations(model)
    config = CaptionerConfig(MappingConfig("mlp", 512, WIDTH, PREFIX, 1), "gpt2", "", True)
    captioner = PrefixCaptioner(config, model, None)
    captioner.keep_in(precision, pick_device("cpu"))
    settings = DecodingSettings(
        use_beam_search=True, beam_size=BEAMS, entry_length=LENGTH, length_penalty=1.0, complete=False
    )
    every, cpu = prefixes(videos), pick_device("cpu")

    def piece(part: slice) -> list[Any]:
        with torch.inference_mode(), autocast(cpu, precision):
            chosen = every[part]
            state = PrefixDecoding(model, captioner.head(cpu), chosen, LENGTH)
            return decode(state, len(chosen), [END], settings)

    most = LANE_HYPOTHESES // BEAMS
    in_pieces(piece, min(WARM, videos), most, cpu, spread_one=True)
    start = clock()
    answers = in_pieces(piece, videos, most, cpu, spread_one=True)  # as a captioner of this size
    seconds = clock() - start
    rows = videos * (PREFIX + BEAMS * (LENGTH - 1))
    head = videos * (1 + BEAMS * (LENGTH - 1)) * WIDTH * VOCABULARY
    floor = 2 * (rows * BLOCK_WEIGHTS + head) / product_rate(precision)
    return seconds, floor, [(best[0].tokens, best[0].mean_logprob) for best in answers]


def measure(options: argparse.Namespace) -> list[Row]:
    seconds, expected = apart(reference, options.reference_videos).value
    print(f"reference: {seconds:.1f} s for {options.reference_videos} videos", flush=True)
    rate = options.reference_videos / seconds
    rows = []
    for precision in options.precision:
        took, floor, found = apart(ours, options.videos, precision).value
        rows.append(
            Row(f"against the reference, ours in {precision}", "videos/s", rate, options.videos / took,
                options.videos / floor, agreement(found, expected))
        )  # fmt: skip
        if not options.skip_generate:
            theirs = apart(library, options.videos, precision).value
            print(f"generate in {precision}: {theirs:.1f} s for {options.videos} videos", flush=True)
            rows.append(
                Row(f"against generate, both in {precision}", "videos/s", options.videos / theirs,
                    options.videos / took, options.videos / floor)
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--reference_videos", type=int, default=2, help="how many the reference is timed on")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--skip_generate", action="store_true")
    run(measure, parser)


def agreement(found: list[tuple[list[int], float]], expected: list[tuple[list[int], float]]) -> str:
    pairs = list(zip(found, expected, strict=False))
    same = sum(mine[0] == other[0] for mine, other in pairs)
    worst = max(abs(mine[1] - other[1]) for mine, other in pairs)
    return f"{same} of {len(pairs)} hypotheses the same, mean log-probabilities to {worst:.0e}"


if __name__ == "__main__":
    main()
