"""From logits to captions: beam search, greedy decoding and sampling, for any model that can `step`.

Start in `search.py`, which states the rule. Importing this package does not import torch, so that the
command line can show the settings at once; `decode` itself is in `clipcap_video.decoding.search`.
"""

from __future__ import annotations

from clipcap_video.decoding.settings import DecodingSettings

__all__ = ["DecodingSettings"]
