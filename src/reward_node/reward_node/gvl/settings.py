"""The configuration of GVL: config/rewards/gvl.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_node.settings import LocalModelSettings, hold


@dataclass(frozen=True)
class Prompt:
    """The texts of the user's turn, in their order. opening: before the episode's first frame, holds {instruction}; first: behind that
    frame; picture: before each of the others, holds {number}; question: behind the last, may hold {count}, how many the others are."""

    opening: str
    first: str
    picture: str
    question: str

    def __post_init__(self) -> None:
        hold("opening", self.opening)
        hold("picture", self.picture, "{number}")


@dataclass(frozen=True, kw_only=True)
class GVLSettings(LocalModelSettings):
    """cameras: side by side in one image; frames: of an episode that are shown; limit: tokens of the answer, at most."""

    prompt: Prompt
    frames: int = field(default=15, metadata={"ge": 2})
    limit: int = field(default=1024, metadata={"ge": 1})
