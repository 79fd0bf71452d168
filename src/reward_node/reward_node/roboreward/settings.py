"""The configuration of RoboReward: config/rewards/roboreward.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.settings import LocalModelSettings, hold


@dataclass(frozen=True, kw_only=True)
class RoboRewardSettings(LocalModelSettings):
    """model: folder of the checkpoint; cameras: side by side in one image; frames: that a score sees, uniform over the elapsed time;
    prompt: text after the frames, holds {instruction}; start: how the model's answer begins; answers: what may follow, word for word, and
    the value of each."""

    prompt: str
    start: str
    answers: dict[str, float]
    frames: int = field(default=8, metadata={"ge": 2})

    def __post_init__(self) -> None:
        super().__post_init__()
        hold("prompt", self.prompt)
        if self.frames % 2:
            raise ValueError("key 'frames' must be even: the model's video is made of pairs of frames")
        if len(self.answers) < 2 or not all(0.0 <= value <= 1.0 for value in self.answers.values()):
            raise ValueError("key 'answers' needs two answers or more, each with a value from 0 to 1")
