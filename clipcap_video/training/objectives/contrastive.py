"""Cross-entropy, and beside it a contrastive loss by which videos and captions find each other in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import pick_device, pick_precision
from clipcap_video.encoders import load_text_encoder
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import find_checkpoint, objective_weights
from clipcap_video.models.contrastive import FIRST_SCALE, LARGEST_SCALE, contrastive_loss
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.training.data import CaptionData, EpochOrder
from clipcap_video.training.objectives.cross_entropy import CrossEntropy
from clipcap_video.training.texts import embed_once


class Contrastive(CrossEntropy):
    """The cross-entropy plus `weight` times the contrastive loss, both in nats.

    A video is the mean of its prefix, projected to the width of the text embeddings. These are a frozen encoder's: the
    language model's own states would know the video, for captions attend to the prefix.
    texts: embeddings [n, W] of the captions in `data`, in their order.
    """

    captioner: PrefixCaptioner

    def __init__(
        self,
        captioner: PrefixCaptioner,
        data: CaptionData,
        texts: Tensor,
        *,
        weight: float,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(captioner, label_smoothing)
        self.data, self.weight, self.texts = data, weight, texts
        # Of captions with like tokens one counts.
        self._row = {tuple(tokens): row for row, tokens in enumerate(chain.from_iterable(data.captions))}
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE))
        self.to_text = nn.Linear(captioner.config.mapping.embedding_dim, texts.shape[1])

    @classmethod
    def build(
        cls, config: Any, captioner: CaptionModel, data: CaptionData, records: Sequence[VideoRecord]
    ) -> Contrastive:
        assert isinstance(captioner, PrefixCaptioner)
        device = pick_device(config.device)
        encoder = load_text_encoder(config.text_encoder, device, pick_precision(device, config.precision))
        texts = embed_once(encoder, list(chain.from_iterable(data.texts)))
        made = cls(captioner, data, texts, weight=config.retrieval_loss, label_smoothing=config.label_smoothing)
        before = {} if config.init_from is None else objective_weights(find_checkpoint(config.init_from))
        weights = made.own_weights()
        if before.keys() == weights.keys() and all(before[name].shape == weights[name].shape for name in weights):
            made.load_state_dict(before, strict=False)
        return made

    def forward(self, batch: PackedCaptions) -> Tensor:
        prefix = self.captioner.prefix(batch.features, batch.mask, batch.origin, batch.prompt)
        loss = self.captioner.caption_loss(prefix, batch, self.label_smoothing)
        of_video = prefix[:, : self.captioner.config.mapping.prefix_length]
        return loss + self.weight * self.retrieval_loss(of_video, batch)

    def retrieval_loss(self, prefix: Tensor, batch: PackedCaptions) -> Tensor:
        """Symmetric cross-entropy in nats: each caption finds its video, and each video its caption, in the batch.

        prefix: [B, P, E].
        """
        assert batch.text is not None
        assert batch.text_row is not None
        video = F.normalize(self.to_text(prefix.mean(1)).float(), dim=-1)  # [B, W]
        cosines = F.normalize(batch.text, dim=-1) @ video[batch.text_row].T  # [C, C]
        return contrastive_loss(self.logit_scale.exp() * cosines, batch.text_row)

    def load(self, order: EpochOrder, epoch: int, step: int, group: Sequence[list[int]]) -> Iterator[PackedCaptions]:
        for indices, batch in zip(group, order.load(epoch, group), strict=True):
            captions = [order.captions(epoch, index) for index in indices]
            rows = [self._row[tuple(tokens)] for lists in captions for tokens in lists]
            batch.text = self.texts[rows].float()
            batch.text_row = torch.tensor([row for row, lists in enumerate(captions) for _ in lists])
            yield batch

    def after_step(self) -> None:
        """Keeps the scale at 100 or below."""
        self.logit_scale.data.clamp_(max=LARGEST_SCALE)
