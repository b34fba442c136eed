"""How consensus networks are fitted, and when captions are unsure. Free of torch, for the command line to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Captions of less support than this are unsure, unless a network says another threshold.
UNSURE_BELOW = 0.85

# Orders of captions in which a network has a say; see `DecodingSettings.rerank`.
Order = Literal["consensus", "both"]


@dataclass(frozen=True)
class FitConfig:
    """ngrams: the commonest that are predicted. networks: trained, each from another seed, and folded into one.

    hidden: width of the hidden layer of each. dropout: before both layers. mixup: videos are mixed in pairs by shares
    of a Beta(A, A) distribution of this A; 0 is off. bs: videos in a batch. lr: at the start; it falls to nothing.
    weight_decay: of matrices.
    """

    ngrams: int = 8000
    networks: int = 3
    hidden: int = 192
    dropout: float = 0.5
    mixup: float = 1.0
    epochs: int = 24
    bs: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
