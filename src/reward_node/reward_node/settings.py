"""What the configurations of reward models over images have in common.

Role: names, defaults and bounds, once. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.signals import ContrastiveSettings
from whetstone.completion import Completion
from whetstone.quantisation import Precision


@dataclass(frozen=True, kw_only=True)
class ImageRewardSettings:
    """plugin: entry point; cameras: what it looks at, in this order; image_size: (height, width) in pixels of each; every: control steps
    between two scores; contrastive: see signals.py; success: whetstone.completion."""

    plugin: str
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    every: int = field(default=8, metadata={"ge": 1})
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    success: Completion = field(default_factory=Completion)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("key 'cameras' is empty; name at least one")


@dataclass(frozen=True, kw_only=True)
class LocalModelSettings(ImageRewardSettings):
    """model: folder of a model that transformers loads (no download is ever tried); dtype: of its weights."""

    model: str | None
    dtype: Precision = "bfloat16"


def hold(key: str, text: str, placeholder: str = "{instruction}") -> None:
    """ValueError where the text of a key lacks what is filled in."""
    if placeholder not in text:
        raise ValueError(f"key '{key}' must hold {placeholder}")
