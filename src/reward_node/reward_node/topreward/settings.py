"""The configuration of TOPReward: config/rewards/topreward.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.signals import ContrastiveSettings, SuccessSettings
from reward_node.topreward.window import WindowSettings
from reward_node.vlm.loading import Precision


@dataclass(frozen=True)
class Calibration:
    """progress = clip((log p + offset) / scale, 0, 1). Refit per model, quantisation and camera; 25 and 20 suit Qwen3-VL-8B."""

    offset: float = 25.0
    scale: float = field(default=20.0, metadata={"gt": 0})


@dataclass(frozen=True)
class TOPRewardSettings:
    """model: `pocket`, or the folder of a vision-language model that transformers loads (no download is ever tried); dtype: of its
    weights; cameras: what it looks at, side by side in one image; image_size: of each; every: control steps between two scores;
    window: frames that a score sees;
    prompt: text after the frames, holds {instruction}; answer, contrary: the tokens whose log-probabilities are read.
    """

    plugin: str
    model: str | None
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    prompt: str
    every: int = field(default=8, metadata={"ge": 1})
    window: WindowSettings = field(default_factory=WindowSettings)
    answer: str = " True"
    contrary: str = " False"
    dtype: Precision = "bfloat16"
    calibration: Calibration = field(default_factory=Calibration)
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    success: SuccessSettings = field(default_factory=SuccessSettings)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("key 'cameras' is empty; name at least one")
        if "{instruction}" not in self.prompt:
            raise ValueError("key 'prompt' must hold {instruction}")
        if self.window.kind == "fixed" and self.window.frames < 8:
            raise ValueError("key 'window.frames' must be 8 or more where 'window.kind' is fixed: fewer hardly show what moves")
