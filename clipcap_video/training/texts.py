"""Embeddings of captions by a frozen text encoder, made once a run."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from clipcap_video import console
from clipcap_video.encoders.base import TextEncoder

AT_ONCE = 4096  # texts between two looks at the progress bar


def embed_once(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """float16 [n, D] of the texts; those that occur several times are embedded once."""
    number = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    different = list(number)
    rows = []
    with tqdm(total=len(different), desc="embedding captions", unit="caption", disable=console.hides_bars()) as bar:
        for start in range(0, len(different), AT_ONCE):
            part = different[start : start + AT_ONCE]
            rows.append(encoder.encode_text(part).half())
            bar.update(len(part))
    return torch.cat(rows)[[number[text] for text in texts]]
