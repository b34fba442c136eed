"""Embeddings of captions by a frozen text encoder, made once and kept for other runs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from clipcap_video.encoders import TextEncoder
from clipcap_video.files import whole_file

AT_ONCE = 4096  # texts between two looks at the progress bar


def default_cache() -> Path:
    """Where embeddings are kept unless a folder is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipcap-video"


def embed_once(encoder: TextEncoder, texts: list[str], cache: Path | None = None) -> Tensor:
    """float16 [n, D] of the texts, from the cache where another run has made them.

    The same list of texts by the same weights is found again. A file that is damaged is made anew.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    content = json.dumps([encoder.weights_digest, texts], separators=(",", ":"))
    file = (cache or default_cache()) / f"text-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"
    try:
        found = load_file(file)["text"]
        if found.shape == (len(texts), encoder.dim):
            return found
    except (OSError, SafetensorError, KeyError):
        pass  # never made, or damaged
    different = list(dict.fromkeys(texts))
    rows = []
    with tqdm(total=len(different), desc="embedding captions", unit="caption", disable=None) as bar:
        for start in range(0, len(different), AT_ONCE):
            part = different[start : start + AT_ONCE]
            rows.append(encoder.encode_text(part).half())
            bar.update(len(part))
    number = {text: row for row, text in enumerate(different)}
    embeddings = torch.cat(rows)[[number[text] for text in texts]]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as partial:
            partial.write_bytes(save({"text": embeddings}))
    except OSError as error:
        # A convenience only: the run goes on without it.
        print(f"text embeddings are not kept: cannot write {file} ({error.strerror})", file=sys.stderr)
    return embeddings
