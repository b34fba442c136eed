"""Tiny models of the Hugging Face library, with their processors and a tokenizer."""

from __future__ import annotations

import string

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 64, "patch_size": 16}
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *string.ascii_lowercase]
TEXT = {**SMALL, "vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def save_made(build, path, std):
    """What `build` makes, a model and its processor, with weights that look at their input, saved with a tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = build()
        # As initialised the networks hardly look at their input.
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=std)
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)
    save_tokenizer(path)
    return path, model, processor


def save_tokenizer(path):
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)


def build(kind):
    """A tiny random model and the image processor of its published relatives."""
    if kind == "clip":
        config = CLIPConfig(
            text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION, projection_dim=24
        )
        return CLIPModel(config), CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64)
    if kind == "siglip":
        config = SiglipConfig(text_config={**TEXT, "max_position_embeddings": 64}, vision_config=VISION)
        return SiglipModel(config), SiglipImageProcessor(size={"height": 64, "width": 64})
    if kind == "siglip2":
        vision = {**SMALL, "patch_size": 16, "num_patches": 16}
        config = Siglip2Config(text_config={**TEXT, "max_position_embeddings": 64}, vision_config=vision)
        return Siglip2Model(config), Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
    config = Dinov2Config(**VISION)
    # 75 - 64 leaves an odd margin, which transformers halves downwards.
    processor = BitImageProcessor(
        size={"shortest_edge": 75},
        crop_size=64,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return Dinov2Model(config), processor
