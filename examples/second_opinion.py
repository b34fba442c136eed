"""A second opinion from a real server, of a model that is made here: `transformers serve`, on this machine alone.

    pip install 'transformers[serving]' 'clipcap-video[vlm]'
    python examples/second_opinion.py clip.mp4

It makes a LLaVA of a few thousand random weights, starts the server with it, and runs `clipcap-video infer` against
that. What such a model says means nothing; the point is that the protocol holds against another program. With
a real model, start its server (vLLM, llama.cpp, Ollama, LM Studio, `transformers serve MODEL`) and give its address.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PORT = 8123
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def make_model(folder: Path) -> None:
    """A random LLaVA with a tokenizer of the words below, as `save_pretrained` writes it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = [
        "a",
        "the",
        "man",
        "woman",
        "dog",
        "cat",
        "bus",
        "is",
        "are",
        "in",
        "on",
        "with",
        "of",
        "and",
        "runs",
        "sits",
        "red",
        "two",
        "street",
        "frames",
        "sentence",
    ]
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<pad>", "<s>", "</s>", "<image>", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=2, eos_token_id=3, pad_token_id=1,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=16)
    )
    # Sentences of words alone, that end.
    model.generation_config.eos_token_id = 3
    model.generation_config.suppress_tokens = [0, 1, 2, 4]
    model.generation_config.exponential_decay_length_penalty = (6, 3.0)
    size = {"height": 56, "width": 56}
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=size)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def main(clips: list[str]) -> int:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tiny-llava"
        make_model(folder)
        serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--port", str(PORT)]
        server = subprocess.Popen([*serve, "--host", "127.0.0.1", "--device", "cpu"])
        try:
            for _ in range(120):
                if server.poll() is not None:
                    sys.exit("the server does not start; pip install 'transformers[serving]'")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=1)
                    break
                except OSError:
                    time.sleep(1)
            infer = [sys.executable, "-m", "clipcap_video", "infer", *clips, "--out", f"{place}/captions.csv"]
            ask = ["--second_opinion", f"http://127.0.0.1:{PORT}/v1", "--second_model", str(folder), "--below", "1"]
            return subprocess.run([*infer, *ask], check=False).returncode
        finally:
            server.terminate()
            server.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
