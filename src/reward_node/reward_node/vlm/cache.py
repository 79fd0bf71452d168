"""Keys and values of a language model, in buffers that are written in place.

Role: transformers' cache with three additions: appending does not copy what is there (its own concatenates, which costs a frame more
the longer the video is), the end can be cut off for nothing, which drops a branch, and several can be written in one pass. Depends on
torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, (batch, heads, tokens, size) views into buffers of doubling length."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self._buffers: list[torch.Tensor] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = self.length + key_states.shape[-2]
        if not self._buffers or self._buffers[0].shape[-2] < new:
            self._grow(key_states, value_states, new)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., self.length : new, :] = states
        self.truncate(new)
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        self.length = length
        if self._buffers:
            self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def _grow(self, keys: torch.Tensor, values: torch.Tensor, needed: int) -> None:
        room = max(256, 1 << (needed - 1).bit_length())
        grown = []
        for index, states in enumerate((keys, values)):
            buffer = states.new_empty((*states.shape[:-2], room, states.shape[-1]))
            if self._buffers:
                buffer[..., : self.length, :] = self._buffers[index][..., : self.length, :]
            grown.append(buffer)
        self._buffers = grown


class GrowingCache(Cache):
    """A cache of `layers` growing layers."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[GrowingLayer() for _ in range(layers)])

    def truncate(self, length: int) -> None:
        for layer in self.layers:
            assert isinstance(layer, GrowingLayer)
            layer.truncate(length)


class JoinedLayer(DynamicLayer):
    """One layer of several caches side by side, for one pass: its new tokens are those of the first, then those of the second, ...;
    what it shows is everything of the first, then everything of the second, ..."""

    def __init__(self, layers: Sequence[GrowingLayer], counts: Sequence[int]) -> None:
        super().__init__()
        self._layers, self._counts = layers, list(counts)

    def get_seq_length(self) -> int:
        return sum(layer.length for layer in self._layers)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        parts = zip(key_states.split(self._counts, dim=-2), value_states.split(self._counts, dim=-2), strict=True)
        pairs = [layer.update(*part) for layer, part in zip(self._layers, parts, strict=True)]
        keys, values = zip(*pairs, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)


class JoinedCache(Cache):
    """Several caches of one model as one, for one pass of `counts` new tokens of each."""

    def __init__(self, caches: Sequence[GrowingCache], counts: Sequence[int]) -> None:
        rows: Any = zip(*(cache.layers for cache in caches), strict=True)
        super().__init__(layers=[JoinedLayer(row, counts) for row in rows])
