"""Cross-entropy as an objective: PyTorch's own, one row a caption."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clipcap_video.features.base import stack_features
from clipcap_video.models.packing import pack
from clipcap_video.training.objectives.cross_entropy import CrossEntropy
from tests.prefix_models import batch_of, build


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_it_is_the_mean_over_the_tokens_of_all_captions(tiny_lm: Path, smoothing: float) -> None:
    model = build(tiny_lm).eval()
    videos, captions = batch_of(model, [1, 2, 3])
    logits, labels = [], []
    embed = model.language_model.get_input_embeddings()
    for video, texts in zip(videos, captions, strict=True):
        prefix = model.mapping(*stack_features([video]))
        for tokens in texts:
            row = torch.cat([prefix, embed(torch.tensor([tokens]))], dim=1)
            logits.append(model.language_model(inputs_embeds=row).logits[0, prefix.shape[1] - 1 : -1])
            labels.append(torch.tensor(tokens))
    expected = F.cross_entropy(torch.cat(logits), torch.cat(labels), label_smoothing=smoothing)
    objective = CrossEntropy.build(SimpleNamespace(label_smoothing=smoothing), model, None, ())  # type: ignore[arg-type]
    torch.testing.assert_close(objective(pack(videos, captions)), expected)
    assert objective.own_weights() == {}  # it trains nothing beside the captioner
