"""The configuration of GVL: config/rewards/gvl.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.signals import ContrastiveSettings, SuccessSettings
from reward_node.vlm.quantisation import Precision


@dataclass(frozen=True)
class Prompt:
    """The texts of the user's turn, in their order. opening: before the episode's first frame, holds {instruction}; first: behind that
    frame; picture: before each of the others, holds {number}; question: behind the last, may hold {count}, how many the others are."""

    opening: str
    first: str
    picture: str
    question: str

    def __post_init__(self) -> None:
        if "{instruction}" not in self.opening:
            raise ValueError("key 'opening' must hold {instruction}")
        if "{number}" not in self.picture:
            raise ValueError("key 'picture' must hold {number}")


@dataclass(frozen=True)
class GVLSettings:
    """model: folder of a vision-language model that transformers loads; cameras: what it looks at, side by side in one image; image_size:
    of each; every: control steps between two samples; frames: of an episode that are shown; limit: tokens of the answer, at most; dtype:
    of the weights."""

    plugin: str
    model: str | None
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    prompt: Prompt
    every: int = field(default=8, metadata={"ge": 1})
    frames: int = field(default=15, metadata={"ge": 2})
    limit: int = field(default=1024, metadata={"ge": 1})
    dtype: Precision = "bfloat16"
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    success: SuccessSettings = field(default_factory=SuccessSettings)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("key 'cameras' is empty; name at least one")
