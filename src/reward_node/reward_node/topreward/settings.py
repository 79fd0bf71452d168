"""The configuration of TOPReward: config/rewards/topreward.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.settings import LocalModelSettings, hold
from reward_node.topreward.window import WindowSettings


@dataclass(frozen=True)
class Calibration:
    """progress = clip((log p + offset) / scale, 0, 1). Refit per model, quantisation and camera; 25 and 20 suit Qwen3-VL-8B."""

    offset: float = 25.0
    scale: float = field(default=20.0, metadata={"gt": 0})


@dataclass(frozen=True, kw_only=True)
class TOPRewardSettings(LocalModelSettings):
    """model: `pocket`, or the folder of a vision-language model; cameras: side by side in one image; window: frames that a score sees;
    prompt: text after the frames, holds {instruction}; answer, contrary: the tokens whose log-probabilities are read."""

    prompt: str
    window: WindowSettings = field(default_factory=WindowSettings)
    answer: str = " True"
    contrary: str = " False"
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        super().__post_init__()
        hold("prompt", self.prompt)
        if self.window.kind == "fixed" and self.window.frames < 8:
            raise ValueError("key 'window.frames' must be 8 or more where 'window.kind' is fixed: fewer hardly show what moves")
