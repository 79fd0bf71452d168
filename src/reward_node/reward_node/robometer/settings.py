"""The configuration of Robometer: config/rewards/robometer.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.settings import LocalModelSettings, hold
from reward_node.topreward.window import WindowSettings


@dataclass(frozen=True, kw_only=True)
class RobometerSettings(LocalModelSettings):
    """model: folder of the checkpoint; processor: folder of tokenizer, chat template and image processor, null: `model`; cameras: side by
    side in one image; window: frames that a score sees; prompt: text before the frames, holds {instruction}."""

    prompt: str
    processor: str | None = None
    window: WindowSettings = field(default_factory=WindowSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        hold("prompt", self.prompt)
