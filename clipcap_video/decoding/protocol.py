"""What a captioner offers to the decoders: one call to begin, one call a step.

A decoder keeps K *lanes* (beams, or samples) for each of B videos. The model keeps whatever state it needs
for them (a key-value cache, LSTM states). Nothing else passes between the two.

The calls come in this order: `begin` once, then any number of `step`, with at most one `keep` before each.
K is the same in every step. Lanes whose caption has ended are stepped along with token 0; what is returned
for them is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from clipcap_video.errors import ClipcapError


class StepModel(Protocol):
    """State of B videos being captioned; created by the captioner from their features."""

    def begin(self) -> Tensor:
        """Logits of each video's first token: float32 or bf16 [B, V]."""

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Extends the lanes by one token each.

        tokens: [B, K] int64, the token that lane k now ends in.
        parents: [B, K] int64, the lane of the *previous* step that lane k continues (lanes may be dropped,
            swapped or doubled; the first step continues the common beginning and its parents are all zero).
        Returns the logits of the next token, float32 or bf16 [B, K, V].
        """

    def keep(self, rows: Tensor) -> None:
        """Drops videos that are finished: `rows` [B'] int64, ascending, are those that stay.

        B is B' from here on.
        """


def checked_stop_tokens(stop_tokens: Sequence[int], vocabulary: int) -> Tensor:
    """Ascending, so that of equally likely stop tokens the lower id is taken."""
    if not stop_tokens:
        raise ClipcapError("no stop token is given, so no caption would ever end; give at least one")
    for token in stop_tokens:
        if not 0 <= token < vocabulary:
            raise ClipcapError(
                f"stop token {token} is not in the model's vocabulary of {vocabulary}; use the model's own tokenizer"
            )
    return torch.tensor(sorted(set(stop_tokens)))
