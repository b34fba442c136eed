"""The word vectors of the captioner in the box as a text encoder: `starter`. No model runs, and nothing is fetched."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.encoders.huggingface import from_pretrained
from clipcap_video.encoders.weights import digest_weights
from clipcap_video.errors import ClipcapError
from clipcap_video.files import STARTER, open_safetensors

VECTORS = "language_model.transformer.wte.weight"


def load(name: str, device: torch.device, precision: str) -> WordVectors:
    """The encoder `starter`. Raises ClipcapError when the captioner is damaged or is not there."""
    from transformers import AutoTokenizer

    file = STARTER / "model.safetensors"
    if not file.is_file():
        raise ClipcapError(f"text encoder {name!r} needs {file}; install the package again")
    with open_safetensors(file, "the starter captioner", "install the package again") as opened:
        vectors = opened.get_tensor(VECTORS).float()
    return WordVectors(name, vectors, from_pretrained(AutoTokenizer, str(STARTER / "tokenizer")))


class WordVectors:
    """A frozen text encoder: what encoders.TextEncoder asks for.

    vectors: [V, D], of the tokenizer's subwords. A text is the mean of those of its subwords, in lower case as captions
    are, at unit length.
    """

    def __init__(self, name: str, vectors: Tensor, tokenizer: object) -> None:
        self.name = name
        self.dim: int = vectors.shape[1]
        self._table = torch.nn.EmbeddingBag.from_pretrained(vectors, mode="mean")
        self._tokenizer = tokenizer
        self.weights_digest = digest_weights(self._table)

    def encode_text(self, texts: list[str]) -> Tensor:
        """n texts -> float32 [n, D] on the CPU, of unit length; zero where a text has no word."""
        if not texts:
            return torch.zeros(0, self.dim)
        tokens = self._tokenizer([text.lower() for text in texts])["input_ids"]  # type: ignore[operator]
        starts = torch.tensor([0, *map(len, tokens[:-1])]).cumsum(0)
        flat = torch.tensor([token for text in tokens for token in text], dtype=torch.int64)
        return F.normalize(self._table(flat, starts), dim=-1)
