"""Language models whose numbers are not those of their weights: refused before anything of such a size is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipcap_video.models.language_model import load_language_model
from tests.hostile.test_hostile import Place, place, refuses  # noqa: F401  (a fixture)

WIDTH, LAYERS, HEADS, INNER = 32, 2, 4, 48


def write_gguf(file: Path, tokenizer: Path, **changes: Any) -> Path:
    """A tiny Llama with the words of another model's tokenizer, whose numbers are as `changes` say."""
    gguf = pytest.importorskip("gguf")
    known = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    words = sorted(known["vocab"], key=known["vocab"].get)
    numbers = {
        "block_count": LAYERS, "context_length": 128, "embedding_length": WIDTH, "feed_forward_length": INNER,
        "head_count": HEADS, "head_count_kv": HEADS, "vocab_size": len(words), "rope_dimension_count": WIDTH // HEADS,
    }  # fmt: skip
    writer = gguf.GGUFWriter(str(file), "llama")
    for name, value in (numbers | changes).items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in known["merges"]])
    writer.add_eos_token_id(known["vocab"]["<|endoftext|>"])
    shapes = {"token_embd": (len(words), WIDTH), "output_norm": (WIDTH,), "output": (len(words), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (WIDTH, INNER)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.full(shape, 0.01, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_folder(folder: Path, lm: Path, pickled: bool, **changes: Any) -> Path:
    """The GPT-2 in `lm`, with weights in either format, whose numbers are as `changes` say."""
    shutil.copytree(lm, folder)
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def _written(kind: str, where: Path, lm: Path, **changes: Any) -> Path:
    if kind == "gguf":
        return write_gguf(where.with_suffix(".gguf"), lm, **changes)
    return write_folder(where, lm, kind == "bin", **changes)


KINDS = ("safetensors", "bin", "gguf")
NAMES = {
    "gguf": ("block_count", "embedding_length", "feed_forward_length", "vocab_size", "head_count", "head_count_kv",
             "rope_dimension_count"),
    "bin": ("n_layer", "n_embd", "n_inner", "vocab_size", "n_head", "n_positions"),
    "safetensors": ("n_layer", "n_embd", "n_inner", "vocab_size", "n_head", "n_positions"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_as_they_are_they_load(tiny_lm: Path, tmp_path: Path, kind: str) -> None:
    model, _ = load_language_model(str(_written(kind, tmp_path / "lm", tiny_lm)))
    assert model.config.num_hidden_layers == LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, 10_000, 10**9])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in NAMES[kind]])
def test_numbers_that_are_not_those_of_the_weights(
    place: Place, tmp_path: Path, kind: str, name: str, value: int  # noqa: F811
) -> None:  # fmt: skip
    lm = _written(kind, tmp_path / "lm", place.lm, **{name: value})
    said = refuses(
        place, "train", "--data", place.data, "--lm", lm, "--caption", place.caption, "--out", tmp_path / "new"
    )
    assert str(lm) in said
    assert "ignore_mismatched_sizes" not in said
