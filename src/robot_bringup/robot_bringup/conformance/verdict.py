"""What a check of the conformance kit says.

Role: the words that all checks share. Depends on neither ROS nor a simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from robot_bringup.conformance.record import Record
from whetstone.profile import RobotProfile

Outcome = Literal["passed", "failed", "not tried"]


@dataclass(frozen=True)
class Robot:
    """What is judged. hardware: it may be a real one, so nothing is expected that only a simulator has. resets_arm: its reset puts the arm
    home too."""

    profile: RobotProfile
    hardware: bool = False
    resets_arm: bool = False


@dataclass(frozen=True)
class Verdict:
    """seen: what was found, or why it was not tried. expected, fix: only where it failed."""

    group: str
    name: str
    outcome: Outcome
    seen: str
    expected: str = ""
    fix: str = ""


class Failed(Exception):
    def __init__(self, seen: str, expected: str, fix: str) -> None:
        super().__init__(seen)
        self.parts = (seen, expected, fix)


class Untried(Exception):
    pass


Check = Callable[[Record, Robot], str]
"""Returns what was seen; raises Failed or Untried."""


def needed(found: list, why: str) -> list:
    if not found:
        raise Untried(why)
    return found
