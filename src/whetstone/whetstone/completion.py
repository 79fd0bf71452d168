"""When the reward model's word ends an episode as a success.

Role: the settings (config/rewards: success) and the count of frames in a row, for the episode manager, for what runs in one process and for
the honesty suite. Pure; knows neither ROS nor a reward model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Completion:
    """When a reward model's completion counts as success: >= threshold on so many scored frames in a row.

    progress: that the same frames must have reached besides; 0: any. Two outputs that must agree are harder to deceive than one, and a
    learner looks for whatever deceives them.
    """

    threshold: float = field(default=0.8, metadata={"gt": 0.0, "le": 1.0})
    frames: int = field(default=2, metadata={"ge": 1})
    progress: float = field(default=0.0, metadata={"ge": 0.0, "le": 1.0})


@dataclass
class Debounce:
    """Counts an episode's scored frames in a row at or above the threshold. streak: how many there are now."""

    completion: Completion
    streak: int = 0

    def __call__(self, valid: bool, completion: float, progress: float) -> bool:
        """One scored frame in the order of stamps; whether the episode is a success with it."""
        wanted = self.completion
        reached = valid and completion >= wanted.threshold and (not wanted.progress or progress >= wanted.progress)
        self.streak = self.streak + 1 if reached else 0
        return self.streak >= self.completion.frames


def first_success(wanted: Completion, completion: Iterable[float], progress: Iterable[float]) -> int:
    """Index of the scored frame with which an episode is a success, -1 where it is none. NaN: not scored."""
    debounce = Debounce(wanted)
    for index, (one, other) in enumerate(zip(completion, progress, strict=True)):
        if debounce(math.isfinite(one), one, other):
            return index
    return -1
