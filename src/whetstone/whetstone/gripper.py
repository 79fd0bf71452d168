"""When a gripper goal is due.

Role: the edge trigger between wanted openings and gripper goals, the same over ROS and in process. Depends on nothing.
"""

from __future__ import annotations


class GripperTrigger:
    """Says when a gripper goal is due: when the wanted opening moved by more than `hysteresis` since the last goal.

    Drivers run one goal at a time and each costs them a move, so an unchanged wish must send nothing.
    """

    def __init__(self, hysteresis: float) -> None:
        self._hysteresis = hysteresis
        self._sent: float | None = None

    def reset(self) -> None:
        """A new episode: what the gripper does is not known, the first wish is sent."""
        self._sent = None

    def update(self, opening: float) -> float | None:
        """The opening in [0, 1] to send now, or None."""
        opening = min(max(float(opening), 0.0), 1.0)
        if self._sent is not None and abs(opening - self._sent) <= self._hysteresis:
            return None
        self._sent = opening
        return opening
