"""The contrastive loss of text and video (CLIP4Clip, Luo et al., arXiv 2104.08860, section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST_SCALE = 2.6592600  # ln(1 / 0.07), CLIP's
LARGEST_SCALE = 4.6051702  # ln 100, CLIP's


def contrastive_loss(similarity: Tensor, video: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy in nats: each text finds its video and each video its text (CLIP4Clip, section 3.4).

    similarity: [N, N], text i belonging to video i. video: [N] int64, which video each row and column is; another
    text of the same video is then no negative. None: all are different, as in the released code.
    """
    if video is not None:
        twin = (video[:, None] == video[None, :]).fill_diagonal_(False)
        similarity = similarity.masked_fill(twin, float("-inf"))
    diagonal = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, diagonal) + F.cross_entropy(similarity.T, diagonal)) / 2
