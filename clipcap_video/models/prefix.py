"""The prefix captioner: a mapping network in front of a causal language model (ClipCap, arXiv 2111.09734)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.errors import ClipcapError
from clipcap_video.models.adapters import add_adapters, is_adapter_weight
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.contrastive import FIRST_SCALE, LARGEST_SCALE, contrastive_loss
from clipcap_video.models.loss import summed_cross_entropy
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.mapping.registry import build_mapping
from clipcap_video.models.packed_mask import BLOCK, PADDING, block_attention, block_mask, dense_mask, suits_blocks
from clipcap_video.models.packing import PackedCaptions


@dataclass(frozen=True)
class CaptionerConfig:
    """What rebuilds a captioner, beside its weights and its tokenizer.

    language_model: the name it was loaded by; needed again only when `only_prefix`.
    language_model_digest: tells whether the model found under that name is still the same.
    only_prefix: the language model is frozen and stays out of the checkpoint.
    stop_text: how captions end. None: in the end-of-text token, and they are whole. A text, "." in the ClipCap
        programs, is their convention: captions are trained on without an end token and with token id 0, their
        padding, never a label; decoding stops behind the first token of the text, which stays in the caption, and a
        caption that does not come to it breaks off.
    lora_rank: the language model is frozen but for low-rank adapters of this rank (Hu et al., arXiv 2106.09685), which
        alone are in the checkpoint; 0 is none.
    text_dim: width of the text embeddings that the pooled prefix was trained to find, too; 0 where it was not.
    """

    mapping: MappingConfig
    language_model: str
    language_model_digest: str
    only_prefix: bool
    stop_text: str | None = None
    lora_rank: int = 0
    text_dim: int = 0

    @property
    def frozen_decoder(self) -> bool:
        """Whether the checkpoint does without the language model's own weights."""
        return self.only_prefix or self.lora_rank > 0

    @property
    def max_frames(self) -> int:
        """Frames of a video that the mapping network is given at most."""
        return self.mapping.max_frames


class PrefixCaptioner(CaptionModel):
    """Prefix of P embeddings from the frames, then the language model.

    language_model: a `transformers` causal language model; tokenizer: its tokenizer.
    """

    kind = "prefix"
    to_text: nn.Linear
    logit_scale: nn.Parameter

    def __init__(self, config: CaptionerConfig, language_model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.mapping = build_mapping(config.mapping)
        self.language_model = language_model
        if config.only_prefix:
            self.language_model.requires_grad_(False)
        elif config.lora_rank:
            add_adapters(language_model, config.lora_rank)
        if config.text_dim:
            self.learn_to_retrieve(config.text_dim)

    @property
    def feature_dim(self) -> int:
        return self.config.mapping.feature_dim

    @property
    def max_frames(self) -> int:
        return self.config.max_frames

    @property
    def vocabulary_size(self) -> int:
        return self.language_model.config.vocab_size

    @property
    def stop_tokens(self) -> list[int]:
        if self.config.stop_text is None:
            return super().stop_tokens
        return [self._encode(self.config.stop_text)[0]]

    @property
    def whole_captions(self) -> bool:
        return self.config.stop_text is None

    @property
    def ignored_label(self) -> int | None:
        return None if self.config.stop_text is None else 0

    def train(self, mode: bool = True) -> PrefixCaptioner:
        super().train(mode)
        if self.config.only_prefix:
            # A frozen language model must not drop out either: it is a fixed function.
            self.language_model.eval()
        return self

    def describe(self) -> dict[str, str]:
        mapping = self.config.mapping
        return {"mapping network": f"{mapping.mapping_type}, {mapping.prefix_length} prefix tokens"}

    def backbone(self) -> nn.Module:
        return self.language_model

    def stays_out(self) -> Iterator[str]:
        """A frozen language model but for its adapters; output weights that are the input embeddings once more."""
        embedding = self.language_model.get_input_embeddings().weight
        named = ("wte.weight", "embed_tokens.weight")
        for name, parameter in self.language_model.state_dict(keep_vars=True).items():
            frozen = self.config.frozen_decoder and not is_adapter_weight(name)
            if frozen or (parameter is embedding and not name.endswith(named)):
                yield f"language_model.{name}"

    def decode_tokens(self, tokens: list[int], stop_token: int | None = None) -> str:
        if not self.whole_captions:
            # To the letter what the ClipCap programs give: the stop text is part of it, and so is every space.
            return self.tokenizer.decode(tokens if stop_token is None else [*tokens, stop_token])
        return super().decode_tokens(tokens)

    def forward(self, batch: PackedCaptions, label_smoothing: float = 0.0, retrieval_loss: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats over all labels of the batch, each times its weight where it has one.

        retrieval_loss: what the contrastive loss is multiplied by before it is added.
        """
        prefix = self.mapping(batch.features, batch.mask)
        loss = self._caption_loss(prefix, batch, label_smoothing)
        if retrieval_loss:
            loss = loss + retrieval_loss * self.retrieval_loss(prefix, batch)
        return loss

    def retrieval_loss(self, prefix: Tensor, batch: PackedCaptions) -> Tensor:
        """Symmetric cross-entropy in nats: each caption finds its video, and each video its caption, in the batch.

        prefix: [B, P, E]; a video is the mean of its prefix, projected to the width of the text embeddings. These are
        a frozen encoder's: the language model's own states would know the video, for captions attend to the prefix.
        """
        assert batch.text is not None
        assert batch.text_row is not None
        video = F.normalize(self.to_text(prefix.mean(1)).float(), dim=-1)  # [B, W]
        cosines = F.normalize(batch.text, dim=-1) @ video[batch.text_row].T  # [C, C]
        return contrastive_loss(self.logit_scale.exp() * cosines, batch.text_row)

    def learn_to_retrieve(self, text_dim: int) -> None:
        """Adds what the contrastive loss needs for text embeddings of this width, unless it is there."""
        if hasattr(self, "to_text") and self.to_text.out_features == text_dim:
            return
        self.config = replace(self.config, text_dim=text_dim)
        self.to_text = nn.Linear(self.config.mapping.embedding_dim, text_dim)
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def retrieval_parameters(self) -> Iterator[nn.Parameter]:
        """What only the contrastive loss trains."""
        if self.config.text_dim:
            yield from self.to_text.parameters()
            yield self.logit_scale

    def clamp_scale(self) -> None:
        """Keeps the scale of the contrastive loss at 100 or below."""
        if self.config.text_dim:
            self.logit_scale.data.clamp_(max=LARGEST_SCALE)

    def _caption_loss(self, prefix: Tensor, batch: PackedCaptions, label_smoothing: float) -> Tensor:
        hidden = self._read_packed(prefix, batch)
        length = hidden.shape[1]
        # Every caption's first token is predicted at the end of the prefix: one row of logits serves them all.
        places = batch.label_row * length + batch.label_column + prefix.shape[1]
        rows, row_of_label = places.unique(return_inverse=True)
        predicting = hidden.reshape(-1, hidden.shape[-1])[rows]  # [rows, E]
        head = self.language_model.get_output_embeddings()
        total = summed_cross_entropy(
            predicting,
            head.weight,
            getattr(head, "bias", None),
            row_of_label,
            batch.labels,
            batch.label_weight,
            label_smoothing,
        )
        return total / len(batch.labels)

    def _read_packed(self, prefix: Tensor, batch: PackedCaptions) -> Tensor:
        """Hidden states [B, P + L, E] behind prefix [B, P, E] and packed captions [B, L]."""
        count, length = prefix.shape[1], batch.tokens.shape[1]
        blocks = suits_blocks(self.language_model, prefix.device, count + length)
        # The kernel is compiled for each length, so there are to be few.
        room = -(count + length) % BLOCK if blocks else 0
        tokens = F.pad(batch.tokens, (0, room))
        caption, position = F.pad(batch.caption, (0, room), value=PADDING), F.pad(batch.position, (0, room))
        embeddings = self.language_model.get_input_embeddings()(tokens)
        places = torch.arange(count, device=prefix.device).expand(len(prefix), -1)
        mask = block_mask if blocks else dense_mask
        with block_attention(self.language_model) if blocks else nullcontext():
            out = self.language_model.base_model(
                inputs_embeds=torch.cat([prefix.to(embeddings.dtype), embeddings], dim=1),
                attention_mask=mask(caption, position, count),
                position_ids=torch.cat([places, position + count], dim=1),
                use_cache=False,
            )
        return out.last_hidden_state[:, : count + length]

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.language_model.get_output_embeddings()(hidden).float()

    def start(self, features: Tensor, mask: Tensor, max_tokens: int) -> PrefixDecoding:
        """State for decoding captions of up to `max_tokens` tokens; see decoding.protocol.StepModel.

        features: [B, T, D]; mask: [B, T] bool.
        Raises ClipcapError when prefix and caption are longer than the language model can read.
        """
        self.check_length(max_tokens)
        return PrefixDecoding(self, self.mapping(features, mask), max_tokens)

    def check_length(self, max_tokens: int) -> None:
        """Raises ClipcapError when prefix and a caption of `max_tokens` exceed the language model's positions."""
        limit = getattr(self.language_model.config, "max_position_embeddings", math.inf)
        needed = self.config.mapping.prefix_length + max_tokens + 1
        if needed > limit:
            raise ClipcapError(
                f"{self.config.mapping.prefix_length} prefix tokens and {max_tokens} caption tokens exceed the "
                f"{limit} positions of the language model; lower the entry length or the prefix length"
            )


class PrefixDecoding:
    """Captions of B videos in the making: the language model's cache, shared by all lanes of a video.

    All lanes of a video live in one cache row: the prefix once, then the K tokens of every step. A lane is a path
    through those tokens, kept as a mask, so that choosing other parents moves no keys or values.
    """

    def __init__(self, captioner: PrefixCaptioner, prefix: Tensor, max_tokens: int) -> None:
        from clipcap_video.models.cache import roomy_cache

        self.captioner = captioner
        self.prefix = prefix
        self.position = prefix.shape[1]
        head = captioner.language_model.get_output_embeddings()
        # Cast once a batch where autocast would do it in every step.
        device = prefix.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
        bias = getattr(head, "bias", None)
        self.head = (head.weight.to(dtype), None if bias is None else bias.to(dtype))
        self.cache = roomy_cache(captioner.language_model.config.num_hidden_layers, max_tokens)
        # [B, K, S] bool: which of the S tokens generated so far belong to the lane.
        self.path = torch.zeros(len(prefix), 1, 0, dtype=torch.bool, device=prefix.device)

    def begin(self) -> Tensor:
        """Logits of the first token: [B, V] float32."""
        embeddings = self.captioner.language_model.get_input_embeddings()
        hidden = self._run(self.prefix.to(embeddings.weight.dtype), None, torch.arange(self.position))
        return self._logits(hidden[:, -1])

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Appends tokens [B, K] to the lanes `parents` [B, K] of the step before -> logits [B, K, V] float32."""
        lanes = tokens.shape[1]
        slots = self.path.shape[2]
        inherited = self.path.gather(1, parents[:, :, None].expand(-1, -1, slots))
        own = torch.eye(lanes, dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
        self.path = torch.cat([inherited, own], dim=2)
        seen = F.pad(self.path, (self.prefix.shape[1], 0), value=True)
        embeddings = self.captioner.language_model.get_input_embeddings()(tokens)
        hidden = self._run(embeddings, seen[:, None], torch.full((lanes,), self.position))
        self.position += 1
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        """hidden: [..., E] -> float32 [..., V]."""
        weight, bias = self.head
        return F.linear(hidden.to(weight.dtype), weight, bias).float()

    def _run(self, embeddings: Tensor, seen: Tensor | None, positions: Tensor) -> Tensor:
        out = self.captioner.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=seen,
            position_ids=positions.to(embeddings.device).expand(len(embeddings), -1),
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.path = self.path[rows]
        self.prefix = self.prefix[rows]
