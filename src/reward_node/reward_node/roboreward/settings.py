"""The configuration of RoboReward: config/rewards/roboreward.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.signals import ContrastiveSettings, SuccessSettings
from reward_node.vlm.quantisation import Precision


@dataclass(frozen=True)
class RoboRewardSettings:
    """model: folder of the checkpoint; cameras: what it looks at, side by side in one image; image_size: of each; every: control steps
    between two scores; frames: that a score sees, uniform over the elapsed time; prompt: text after the frames, holds {instruction};
    start: how the model's answer begins; answers: what may follow, word for word, and the value of each; dtype: of the weights."""

    plugin: str
    model: str | None
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    prompt: str
    start: str
    answers: dict[str, float]
    every: int = field(default=8, metadata={"ge": 1})
    frames: int = field(default=8, metadata={"ge": 2})
    dtype: Precision = "bfloat16"
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    success: SuccessSettings = field(default_factory=SuccessSettings)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("key 'cameras' is empty; name at least one")
        if "{instruction}" not in self.prompt:
            raise ValueError("key 'prompt' must hold {instruction}")
        if self.frames % 2:
            raise ValueError("key 'frames' must be even: the model's video is made of pairs of frames")
        if len(self.answers) < 2 or not all(0.0 <= value <= 1.0 for value in self.answers.values()):
            raise ValueError("key 'answers' needs two answers or more, each with a value from 0 to 1")
