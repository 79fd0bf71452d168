"""The configuration of Robometer: config/rewards/robometer.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.signals import ContrastiveSettings, SuccessSettings
from reward_node.topreward.window import WindowSettings
from reward_node.vlm.quantisation import Precision


@dataclass(frozen=True)
class RobometerSettings:
    """model: folder of the checkpoint; processor: folder of tokenizer, chat template and image processor, null: `model`; cameras: what it
    looks at, side by side in one image; image_size: of each; every: control steps between two scores; window: frames that a score sees;
    prompt: text before the frames, holds {instruction}; dtype: of the weights."""

    plugin: str
    model: str | None
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    prompt: str
    processor: str | None = None
    every: int = field(default=8, metadata={"ge": 1})
    window: WindowSettings = field(default_factory=WindowSettings)
    dtype: Precision = "bfloat16"
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    success: SuccessSettings = field(default_factory=SuccessSettings)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("key 'cameras' is empty; name at least one")
        if "{instruction}" not in self.prompt:
            raise ValueError("key 'prompt' must hold {instruction}")
