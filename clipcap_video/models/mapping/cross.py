"""The mapping network `cross`: learned prefix constants attend to the frames only."""

from __future__ import annotations

from torch import Tensor

from clipcap_video.models.mapping.transformer import TransformerMapping


class CrossMapping(TransformerMapping):
    """Learned prefix constants that attend to the frames, which stay as they are."""

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        frames, attended = self.frames(features), self._token_mask(mask)
        x = self.prefix_const.expand(len(features), -1, -1).to(frames.dtype)
        for layer in self.layers:
            x = layer(x, y=frames, mask=attended)
        return x
