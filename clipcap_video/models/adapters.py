"""Low-rank adapters: a frozen language model learns through small matrices beside its own (LoRA, arXiv 2106.09685).

A layer that computes W x then computes W x + (2 / rank ** 0.5) B A x, where A [rank, in] and B [out, rank] are trained
and B starts at zero, so that training starts from the language model as it is.
"""

from __future__ import annotations

import warnings
from typing import Any

from clipcap_video.errors import ClipcapError


def add_adapters(language_model: Any, rank: int) -> None:
    """Freezes the language model and puts an adapter beside each of its linear layers but the output layer.

    Raises ClipcapError when peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ClipcapError(
            "--lora_rank needs peft, which is not installed; run pip install 'clipcap-video[lora]'"
        ) from None
    language_model.requires_grad_(False)
    # Scaled by the root of the rank, the same learning rate suits every rank (Kalajdzievski, arXiv 2312.03732).
    config = LoraConfig(r=rank, lora_alpha=2, use_rslora=True, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that GPT-2's weights lie transposed, which it sees by itself
        inject_adapter_in_model(config, language_model)


def is_adapter_weight(name: str) -> bool:
    """Whether a name of the captioner's state dict is that of an adapter's weight."""
    return ".lora_" in name
