"""What is common to the reward models: the contrastive signal, the combined one, the window of frames.

Role: the formulas of arXiv 2603.16065 (Large Reward Models) that need no language model. Does not depend on torch or ROS.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ContrastiveSettings:
    """window: scored frames between the two that are compared; dead_zone: difference of progress that counts as none."""

    window: int = field(default=3, metadata={"ge": 1})
    dead_zone: float = field(default=0.02, metadata={"ge": 0})


def contrastive(now: float, before: float | None, dead_zone: float) -> float:
    """+1 where `now` is nearer to done than `before`, -1 where it is farther, 0 within the dead zone or without a pair."""
    if before is None or not (math.isfinite(now) and math.isfinite(before)):
        return 0.0
    difference = now - before
    return 0.0 if abs(difference) <= dead_zone else math.copysign(1.0, difference)


class Contrast:
    """The contrastive signal of an episode that runs: each progress against the one `window` scores before, or the earliest there is."""

    def __init__(self, settings: ContrastiveSettings) -> None:
        self._dead_zone = settings.dead_zone
        self._past: deque[float] = deque(maxlen=settings.window)

    def __call__(self, progress: float) -> float:
        found = contrastive(progress, self._past[0] if self._past else None, self._dead_zone)
        self._past.append(progress)
        return found


def total(process: float, completion: float, contrast: float) -> float:
    """Mean of the three signals, the contrastive one mapped from [-1, 1] to [0, 1]."""
    return (process + completion + (contrast + 1.0) / 2.0) / 3.0


def recent_window(newest: int, recent: int) -> list[int]:
    """Frame indices [start, recent...] for a score at frame `newest`: the episode's first, then the `recent` last ones.

    Indices before the episode are the first frame again, so a clip that does not move gives one and the same window at
    every time and its score cannot rise with the count of frames.
    """
    return [0, *(max(0, newest - recent + 1 + slot) for slot in range(recent))]


def uniform_window(count_seen: int, count: int) -> list[int]:
    """`count` indices into frames 0..count_seen-1: the first, then uniform over elapsed time, ending with the newest.

    The count never changes (frames are repeated while few were seen): a score must not rise because a prompt has more
    images in it (the trap of TOPReward, arXiv 2602.19313).
    """
    return [int(index) for index in np.round(np.linspace(0, count_seen - 1, count))]
