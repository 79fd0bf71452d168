"""How long the policy thinks, how far its chunks jump and how evenly commands leave: the figures in /diagnostics.

Role: the last few hundred values of each, and their percentiles. Pure; does not depend on ROS.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

REMEMBERED = 400
"""Values of a kind that count: 20 s of commands at 20 Hz."""


class Recent:
    """The newest values of one kind."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, value: float) -> None:
        """NaN: there was none."""
        if not math.isnan(value):
            self._values.append(value)

    def percentiles(self, name: str, unit: str, scale: float, which: tuple[int, ...]) -> dict[str, float]:
        """E.g. {"inference_p50_ms": 12.1}: of value * scale; empty where there is no value yet."""
        if not self._values:
            return {}
        found = np.percentile(np.array(self._values), which) * scale
        return {f"{name}_p{percent}_{unit}": round(float(value), 3) for percent, value in zip(which, found)}


class Pace:
    """inference: s; jump: unit of the columns (rad), see ChunkExecution; jitter: s between two commands, off the control period."""

    def __init__(self) -> None:
        self.inference, self.jump, self.jitter = Recent(), Recent(), Recent()

    def figures(self) -> dict[str, float]:
        """Counters for /diagnostics."""
        return {
            **self.inference.percentiles("inference", "ms", 1e3, (50, 95)),
            **self.jump.percentiles("seam_jump", "rad", 1.0, (50, 95)),
            **self.jitter.percentiles("control_jitter", "ms", 1e3, (50, 99)),
        }
