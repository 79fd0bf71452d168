"""A human at the arm: whose word counts at a control step, the policy's or theirs.

Role: pure. Whoever teleoperates takes over with the first message and drives as long as messages come; when they stop, the policy has the
arm again, and begins with a fresh look. What a human asks for passes the guard like everything else, so the arm goes to where the human's
device is at its own pace. Does not depend on ROS.
"""

from __future__ import annotations

import numpy as np

PATIENCE = 0.25
"""s of silence after which the human has let go."""


class Teleoperation:
    """active: a human drives."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.active = False
        self._patience = patience
        self._target: np.ndarray | None = None
        self._heard = 0.0

    def hear(self, target: np.ndarray, now: float) -> None:
        """Where the human wants the arm: (joints + 1,), joint positions in rad and gripper opening. now: s of a steady clock."""
        self._target, self._heard = np.asarray(target, np.float64), now

    def target(self, now: float) -> np.ndarray | None:
        """What the human wants, None where nobody drives; `active` follows."""
        self.active = self._target is not None and now - self._heard <= self._patience
        return self._target if self.active else None
