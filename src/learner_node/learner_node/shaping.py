"""From the reward model's signals to the reward of each decision, as reinforcement learning counts it.

Role: pure arithmetic over a rollout's rewards. Does not depend on torch or ROS.

With phi the chosen signal before a decision and phi' the one behind it (at the next decision, or the end):
    held        r = phi'                  a value held adds up with time: who loiters near the goal earns most (LRM's published way)
    increments  r = phi' - phi            adds up to what was gained
    potential   r = gamma phi' - phi      Ng et al. 1999, but that phi counts at an episode's end too: what was reached there is earned
and `bonus` more for the last decision of an episode that ended as a success, which the episode manager says only once completion has held
over several frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from whetstone.contracts import Rollout


@dataclass(frozen=True)
class Shaping:
    """signal: progress, process, completion, contrastive, or total: the mean of the last three; kind: see the module; discount: gamma, per
    decision; bonus: of a success."""

    signal: Literal["progress", "process", "completion", "contrastive", "total"] = "progress"
    kind: Literal["held", "increments", "potential"] = "potential"
    discount: float = field(default=0.99, metadata={"gt": 0, "le": 1})
    bonus: float = field(default=1.0, metadata={"ge": 0})


def rewards(rollout: Rollout, shaping: Shaping) -> np.ndarray:
    """(T,) float64 of each decision; NaN where the signal before or behind it never came."""
    signal = rollout.rewards[shaping.signal].astype(np.float64)
    before, behind = signal[:-1], signal[1:]
    if shaping.kind == "held":
        found = behind + 0 * before
    elif shaping.kind == "increments":
        found = behind - before
    else:
        found = shaping.discount * behind - before
    if rollout.outcome == "success" and len(found):
        found[-1] = np.nan_to_num(found[-1]) + shaping.bonus
    return found


def returns(found: np.ndarray, discount: float) -> np.ndarray:
    """(T,) discounted sums of what follows each decision, its own reward included; an unlabelled one (NaN) adds nothing."""
    sums, total = np.zeros(len(found)), 0.0
    for index in range(len(found) - 1, -1, -1):
        total = (0.0 if np.isnan(found[index]) else float(found[index])) + discount * total
        sums[index] = total
    return sums
