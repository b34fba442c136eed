"""A key-value cache that is written in place: the library's own is copied whole for every token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class _RoomyLayer(DynamicLayer):
    """Keys and values [B, heads, S, D], the first part of buffers with room for what is to come.

    steps: how often the cache will be added to after its beginning.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        start, added = self.keys.shape[2], key_states.shape[2]
        end = start + added
        if not self._buffers or self._buffers[0].shape[2] < end:
            self._buffers = [_with_room(old, start + added * self._steps) for old in (self.keys, self.values)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.keys.shape[2]
        if not self._buffers:
            self._buffers = [self.keys, self.values]
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def _with_room(old: Tensor, room: int) -> Tensor:
    batch, heads, length, width = old.shape
    buffer = old.new_empty(batch, heads, room, width)
    buffer[:, :, :length] = old
    return buffer


def roomy_cache(layers: int, steps: int) -> Cache:
    """A cache for a beginning and `steps` additions of one size."""
    return Cache(layers=[_RoomyLayer(steps) for _ in range(layers)])
