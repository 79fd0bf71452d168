"""The joint trajectory controller that a simulated arm stands behind.

Role: what ros2_control's joint_trajectory_controller does with a JointTrajectory on its topic, sampled once per control period:
checks it, replaces the one in force, interpolates. Velocities in the points are accepted and not used (linear interpolation).
Depends on neither rclpy nor a simulator; works on any object with the fields of trajectory_msgs/JointTrajectory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from trajectory_msgs.msg import JointTrajectory

NANOSECONDS = 1_000_000_000


class TrajectoryController:
    """joint_names: in profile order. All joints must be in a trajectory, in any order (no partial goals, the controller's default)."""

    message_type, stamped = JointTrajectory, True
    grip: float | None = None

    def __init__(self, joint_names: Sequence[str]) -> None:
        self._names = tuple(joint_names)
        self._order: dict[tuple[str, ...], np.ndarray] = {}
        self._desired = np.zeros(len(self._names))
        self._times: list[int] = []
        self._points: list[np.ndarray] = []

    def hold(self, positions: np.ndarray) -> None:
        """Drop what is in force and stay at positions (n,) rad."""
        self._desired = np.array(positions, dtype=float)
        self._times, self._points = [], []

    @property
    def end(self) -> int | None:
        """Robot time (ns) of the last point in force; None: nothing is."""
        return self._times[-1] if self._times else None

    def accept(self, message: Any, now: int) -> str | None:
        """Take a trajectory at robot time `now` (ns). Returns None, or why it is ignored; then the one in force stays.

        A header stamp of zero starts it now; a trajectory whose last point lies in the past is refused.
        """
        names = tuple(message.joint_names)
        order = self._order.get(names)
        if order is None:
            unknown = [name for name in names if name not in self._names]
            missing = [name for name in self._names if name not in names]
            if not names:
                return "it names no joints"
            if unknown:
                return f"joint '{unknown[0]}' is unknown; this arm has {', '.join(self._names)}"
            if missing or len(names) != len(self._names):
                return f"joint '{missing[0]}' is missing" if missing else "a joint is named twice"
            order = self._order[names] = np.array([names.index(name) for name in self._names])
        if not message.points:
            return "it has no points"
        stamp = message.header.stamp
        start = (stamp.sec * NANOSECONDS + stamp.nanosec) or now
        times, points = [], []
        for point in message.points:
            positions = np.asarray(point.positions, dtype=float)
            if positions.shape != order.shape:
                return f"a point has {positions.size} positions for {order.size} joints"
            if not np.isfinite(positions).all():
                return "a position is not finite"
            time = start + point.time_from_start.sec * NANOSECONDS + point.time_from_start.nanosec
            if times and time <= times[-1]:
                return "its points are not in order of time"
            times.append(time)
            points.append(positions[order])
        if times[-1] < now:
            return f"it ended {(now - times[-1]) / NANOSECONDS:.3f} s ago"
        self._times, self._points = [now, *times], [self._desired.copy(), *points]
        return None

    def sample(self, time: int) -> np.ndarray:
        """Desired positions (n,) rad at robot time (ns); the last point is held after its time."""
        if self._points:
            later = next((i for i, end in enumerate(self._times) if end > time), None)
            if later is None:
                self.hold(self._points[-1])
            elif later > 0:
                begin, end = self._times[later - 1], self._times[later]
                share = (time - begin) / (end - begin)
                self._desired = self._points[later - 1] + share * (self._points[later] - self._points[later - 1])
        return self._desired.copy()
