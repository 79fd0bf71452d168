"""Which frames of an episode a score sees.

Role: the two choices, as pure index arithmetic over frames numbered from 0 as they come. Both begin with the episode's first frame, look
at the past only and keep a bounded number of frames. Does not depend on torch or ROS.

- `fixed`: as many images in every prompt, uniform over elapsed time. A clip that does not move gets one and the same prompt, times
  included (the images count as half a second apart), so its score cannot rise with the number of images (the trap of TOPReward, arXiv
  2602.19313: a still gets .985 of rank correlation with time). Nearly every image changes from score to score, so the model computes the
  whole window each time: a constant price, that of `frames` images.
- `growing`: every scored frame. A score sees the prompt of the one before and a little more, which the model remembers: the price is that
  of the new frame. Longer prompts are another question, though: check the score against a still of the same length. When there are more
  than `frames` of them, the first and the newer half stay; that one score costs half a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from reward_node.signals import uniform_window


@dataclass(frozen=True)
class WindowSettings:
    """kind: see the module; frames: in every prompt (fixed) or at most (growing)."""

    kind: Literal["fixed", "growing"] = "fixed"
    frames: int = field(default=8, metadata={"ge": 2})

    def make(self) -> Window:
        return FixedWindow(self.frames) if self.kind == "fixed" else GrowingWindow(self.frames)


class Window(Protocol):
    """kept: indices of the frames that a coming score may see, ascending: whoever holds the pictures may forget all others."""

    kept: list[int]

    def add(self, index: int) -> tuple[int, ...]:
        """A frame has come, numbered one more than the last; returns the frames that its score sees, ascending, the newest last."""
        ...


class FixedWindow:
    """`count` frames, repeated while few were seen. Of long episodes every second frame is forgotten, as often as it takes."""

    def __init__(self, count: int) -> None:
        self.kept: list[int] = []
        self._count = count
        self._limit = 32 * count

    def add(self, index: int) -> tuple[int, ...]:
        self.kept.append(index)
        if len(self.kept) > self._limit:
            self.kept = self.kept[:-1:2] + [index]
        there = np.asarray(self.kept)
        return tuple(int(there[np.abs(there - wanted).argmin()]) for wanted in uniform_window(index + 1, self._count))


class GrowingWindow:
    """All frames up to `limit`, then the first and the newer half of them."""

    def __init__(self, limit: int) -> None:
        self.kept: list[int] = []
        self._limit = limit

    def add(self, index: int) -> tuple[int, ...]:
        self.kept.append(index)
        if len(self.kept) > self._limit:
            self.kept = [self.kept[0], *self.kept[-(self._limit // 2) :]]
        return tuple(self.kept)
