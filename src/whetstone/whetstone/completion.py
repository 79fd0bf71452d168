"""When the reward model's word ends an episode as a success.

Role: the settings (config/rewards: success) and the count of frames in a row, for the episode manager and for what runs in one
process. Pure; knows neither ROS nor a reward model.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Completion:
    """When a reward model's completion counts as success: >= threshold on so many scored frames in a row."""

    threshold: float = field(default=0.8, metadata={"gt": 0.0, "le": 1.0})
    frames: int = field(default=2, metadata={"ge": 1})


@dataclass
class Debounce:
    """Counts an episode's scored frames in a row at or above the threshold. streak: how many there are now."""

    completion: Completion
    streak: int = 0

    def __call__(self, valid: bool, completion: float) -> bool:
        """One scored frame in the order of stamps; whether the episode is a success with it."""
        self.streak = self.streak + 1 if valid and completion >= self.completion.threshold else 0
        return self.streak >= self.completion.frames
