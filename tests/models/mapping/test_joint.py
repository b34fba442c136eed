"""A mapping in a space where captions and videos meet."""

from __future__ import annotations

import numpy as np
import torch

from clipcap_video.models.mapping import build_mapping
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.mapping.joint import JointMapping, project


def test_a_mapping_reads_one_vector_a_video() -> None:
    config = MappingConfig("transformer", 8, 16, 3, 6, num_layers=1, text_noise=0.5, memory=2)
    torch.manual_seed(0)
    mapping = build_mapping(config).eval()
    assert isinstance(mapping, JointMapping)
    mapping.memory.copy_(torch.eye(8)[:2])
    mapping.scale.fill_(3.0)
    features, mask = torch.randn(2, 4, 8), torch.tensor([[True] * 4, [True, True, False, False]])
    rows = []
    for frames, real in zip(features.double().numpy(), mask.numpy(), strict=True):
        unit = frames[real] / np.linalg.norm(frames[real], axis=1, keepdims=True)
        video = unit.sum(0) / np.linalg.norm(unit.sum(0))
        weight = np.exp(3 * video[:2])  # cosines to the first two axes
        near = np.zeros(8)
        near[:2] = weight / weight.sum()
        rows.append(near / np.linalg.norm(near))
    expected = torch.tensor(np.array(rows), dtype=torch.float32)
    torch.testing.assert_close(project(mapping.embed(features, mask), mapping.memory, mapping.scale), expected)
    one = torch.ones(2, 1, dtype=torch.bool)
    torch.testing.assert_close(mapping(features, mask), mapping.inner(expected[:, None], one))
    mapping.train()
    assert not torch.equal(mapping(features, mask), mapping(features, mask))  # noise is drawn anew
