"""Tiny captioners of the prefix kind, and batches for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from clipcap_video.features.base import stack_features
from clipcap_video.models.language_model import digest_language_model, load_language_model
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.models.prefix_config import CaptionerConfig
from tests.tiny import WIDTH, captions_of, features_of


def build(
    tiny_lm: Path,
    mapping_type: str = "transformer",
    only_prefix: bool = True,
    llama: bool = False,
    lora_rank: int = 0,
) -> PrefixCaptioner:
    language_model, tokenizer = load_language_model(str(tiny_lm))
    torch.manual_seed(1)
    if llama:
        llama_config = LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, vocab_size=len(tokenizer), max_position_embeddings=128,
        )  # fmt: skip
        language_model = LlamaForCausalLM(llama_config).eval()
    mapping = MappingConfig(mapping_type, WIDTH, 32, 5, 6, num_layers=2)
    digest = digest_language_model(language_model)
    config = CaptionerConfig(mapping, "tiny", digest, only_prefix, lora_rank=lora_rank)
    return PrefixCaptioner(config, language_model, tokenizer).eval()


def batch_of(model: PrefixCaptioner, numbers: list[int]) -> tuple[list[np.ndarray], list[list[list[int]]]]:
    captions = [[model.encode_caption(text, 40) for text in captions_of(number)] for number in numbers]
    captions[0].append([model.tokenizer.eos_token_id])  # an empty caption is an end token alone
    return [features_of(number) for number in numbers], captions


def row_a_caption(model: PrefixCaptioner, videos: list[np.ndarray], captions: list[list[list[int]]]) -> torch.Tensor:
    """The plain computation: every caption behind a prefix of its own, all logits, mean over all tokens."""
    losses = []
    for video, own in zip(videos, captions, strict=True):
        features, mask = stack_features([video])
        for tokens in own:
            prefix = model.mapping(features, mask)
            ids = torch.tensor([tokens])
            embedded = torch.cat([prefix, model.language_model.get_input_embeddings()(ids)], dim=1)
            logits = model.language_model(inputs_embeds=embedded).logits[0, prefix.shape[1] - 1 : -1]
            losses.append(F.cross_entropy(logits, ids[0], reduction="none"))
    return torch.cat(losses).mean()
