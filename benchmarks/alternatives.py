"""One 10-second clip to a caption, against what people would pick instead.

    python benchmarks/alternatives.py

*Reference*: a model of the shape of SmolVLM2-256M-Video (random weights) through transformers in bf16: 16 frames of 512
pixels, 64 tokens each, 20 new tokens, greedy. *Ours*: CLIP ViT-B/32 and GPT-2 small (random weights, full size) on the
same 16 frames, 40 prefix tokens, and the starter captioner on its 8. All from frames in memory to the tokens of a
caption of 20, without loading. *Floor*: the products of ours at the speed of a bare matrix product.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common import Row, apart, best_seconds, product_rate, quiet_libraries, run
from decoding import BLOCK_WEIGHTS, VOCABULARY, WIDTH, language_model
from extraction import GFLOP_A_FRAME, SIDE, our_encoder

FRAMES, NEW_TOKENS, PREFIX = 16, 20, 40
PROMPT = 30  # tokens of "describe this video" in the chat template
FRAME_TOKENS, IMAGE_TOKEN = 64, 49190


@torch.no_grad()
def small_vlm(layers: int) -> float:
    """Seconds of one caption by a model as SmolVLM2-256M-Video-Instruct is published, apart from its weights."""
    quiet_libraries()
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    text = {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": layers,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49280,
        "max_position_embeddings": 8192, "rope_theta": 100000.0, "pad_token_id": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 512, "patch_size": 16,
    }  # fmt: skip
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=4, image_token_id=IMAGE_TOKEN, pad_token_id=2
    )
    model = SmolVLMForConditionalGeneration(config).eval().to(torch.bfloat16)
    ids = torch.randint(100, 1000, (1, PROMPT + FRAMES * FRAME_TOKENS))
    ids[0, 10 : 10 + FRAMES * FRAME_TOKENS] = IMAGE_TOKEN
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, FRAMES, 3, 512, 512, dtype=torch.bfloat16),
        "pixel_attention_mask": torch.ones(1, FRAMES, 512, 512, dtype=torch.bool),
    }
    limits = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    return best_seconds(lambda: model.generate(**inputs, **limits), 1)


def clip_and_gpt2(precision: str, beams: int) -> tuple[float, float]:
    """Seconds of one caption, and the floor of that in seconds."""
    from clipcap_video.captioning.captioner import Captioner
    from clipcap_video.decoding import DecodingSettings
    from clipcap_video.models.checkpoint import CheckpointInfo
    from clipcap_video.models.language_model import fuse_activations
    from clipcap_video.models.mapping.base import MappingConfig
    from clipcap_video.models.prefix import PrefixCaptioner
    from clipcap_video.models.prefix_config import CaptionerConfig

    encoder = our_encoder("bf16")
    model = language_model()
    fuse_activations(model)
    mapping = MappingConfig("transformer", encoder.dim, WIDTH, PREFIX, FRAMES, num_layers=2)
    captioner = PrefixCaptioner(CaptionerConfig(mapping, "gpt2", "", True), model, Tokenizer())
    writer = Captioner(captioner, CheckpointInfo(), Path("random"), encoder.device, precision)
    frames = torch.randint(0, 256, (FRAMES, 3, SIDE, SIDE), dtype=torch.uint8)
    settings = DecodingSettings(use_beam_search=beams > 1, beam_size=beams, entry_length=NEW_TOKENS)
    seconds = best_seconds(lambda: writer.caption_features([encoder.encode_images(frames).numpy()], settings))
    writing = 2 * ((PREFIX + beams * NEW_TOKENS) * BLOCK_WEIGHTS + (1 + beams * NEW_TOKENS) * WIDTH * VOCABULARY)
    product = product_rate(precision)
    return seconds, FRAMES * GFLOP_A_FRAME * 1e9 / product_rate("bf16") + writing / product


class Tokenizer:
    eos_token_id = VOCABULARY - 1


def starter() -> float:
    """Seconds of one caption by the captioner in the box, which may end its sentence before 20 tokens."""
    quiet_libraries()
    from clipcap_video import Captioner
    from clipcap_video.decoding import DecodingSettings

    writer = Captioner.from_pretrained()
    side = writer.encoder.pixels.crop[0]
    frames = torch.randint(0, 256, (writer.require_fingerprint().sampling.frames, 3, side, side), dtype=torch.uint8)
    settings = DecodingSettings(entry_length=NEW_TOKENS)
    return best_seconds(lambda: writer.caption_features([writer.encoder.encode_images(frames).numpy()], settings), 5)


def measure(options: argparse.Namespace) -> list[Row]:
    reference = apart(small_vlm, options.reference_layers).value
    rows = []
    for precision, beams in (("bf16", 1), ("fp32", 1), ("bf16", 5)):
        seconds, floor = apart(clip_and_gpt2, precision, beams).value
        what = f"ViT-B/32 in bf16, GPT-2 small in {precision}, {'beams of 5' if beams > 1 else 'greedy'}"
        rows.append(Row(what, "s", reference, seconds, floor, more_is_better=False))
    rows.append(Row("starter", "s", reference, apart(starter).value, None, "8 frames", more_is_better=False))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference_layers", type=int, default=30, help="fewer are a quick look, and no reference")
    run(measure, parser)


if __name__ == "__main__":
    main()
