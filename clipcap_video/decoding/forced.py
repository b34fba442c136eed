"""The log-probability of given texts: a model is led through their tokens, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipcap_video.decoding.protocol import StepModel


@torch.inference_mode()
def forced_logprobs(state: StepModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Summed log-probability (nats) of each video's text -> float32 [B].

    state: a fresh decoding of B videos. texts: the tokens of each, none empty, the stop token among them where it
    is to count. Goes through the steps that decoding takes, so it is right for every model that can step.
    """
    lengths = torch.tensor([len(text) for text in texts])
    logits = state.begin()  # [B, V]
    lengths = lengths.to(logits.device)
    tokens = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64, device=logits.device)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.as_tensor(text)
    total = torch.zeros(len(texts), device=logits.device)
    for place in range(tokens.shape[1]):
        token = tokens[:, place : place + 1]
        if place:
            logits = state.step(tokens[:, place - 1 : place], torch.zeros_like(token))[:, 0]
        logprob = logits.float().log_softmax(dim=-1).gather(1, token)[:, 0]
        total += torch.where(place < lengths, logprob, 0.0)
    return total
