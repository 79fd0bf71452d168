"""The gripper's action server, as the robot's driver has it.

Role: ROS only: GripperCommand or ParallelGripperCommand by the profile. The simulator and our own driver stand behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from sensor_msgs.msg import JointState

from whetstone.profile import RobotProfile
from whetstone.ros import WhetstoneNode

RESULT_TIMEOUT = 5
"""Seconds of wall time that the result of a goal is kept."""


class GripperServer:
    """Accepts at once, reports the result when the fingers arrived, stalled on an object, or a new goal came.

    opening: where the fingers are sent, in [0, 1]. arrived: opening that counts as there. stalled: opening per call of measured() below
    which the fingers rest, and for how many calls. refuses: says why no goal can be taken now; None: one can. sent: is told the opening of
    each goal that was accepted.
    """

    def __init__(
        self,
        node: WhetstoneNode[Any],
        profile: RobotProfile,
        arrived: float = 0.03,
        stalled: tuple[float, int] = (0.004, 3),
        refuses: Callable[[], str | None] = lambda: None,
        sent: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.opening = 1.0
        self._arrived, self._stalled = arrived, stalled
        self._refuses, self._sent = refuses, sent
        self._node = node
        self._profile = profile
        self._goal: Any = None
        self._verdict: tuple[bool, bool] | None = None
        self._last = 1.0
        self._resting = 0
        if profile.gripper.kind == "gripper_command":
            from control_msgs.action import GripperCommand as Action
        else:
            from control_msgs.action import ParallelGripperCommand as Action
        self._type = Action
        self._server = ActionServer(
            node,
            Action,
            profile.gripper.action,
            execute_callback=node.guarded(self._result),
            goal_callback=self._consider,
            handle_accepted_callback=node.guarded(self._accept),
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            # With rclpy's 900 s each message of status lists all goals of a quarter of an hour, and a run slows down fourfold.
            result_timeout=RESULT_TIMEOUT,
        )

    def reset(self, opening: float) -> None:
        """A new scene, or no arm any more: whatever was under way is over."""
        self._close(reached=False, stalled=False)
        self.opening = self._last = opening
        self._resting = 0

    def measured(self, opening: float) -> None:
        """Look at the fingers after a control period."""
        self._resting = self._resting + 1 if abs(opening - self._last) < self._stalled[0] else 0
        self._last = opening
        if self._goal is not None:
            reached = abs(opening - self.opening) <= self._arrived
            stalled = self._resting >= self._stalled[1]
            if reached or stalled or self._goal.is_cancel_requested:
                self._close(reached, stalled and not reached)

    def destroy(self) -> None:
        self._server.destroy()

    def _consider(self, request: Any) -> GoalResponse:
        position = self._position(request)
        if position is None:
            return self._refuse("it needs one finite position")
        reason = self._refuses()
        if reason is not None:
            return self._refuse(reason)
        return GoalResponse.ACCEPT

    def _refuse(self, reason: str) -> GoalResponse:
        self._node.get_logger().warning(f"{self._profile.gripper.action}: goal refused: {reason}", throttle_duration_sec=0.5)
        return GoalResponse.REJECT

    def _position(self, goal: Any) -> float | None:
        position = goal.command.position
        if not isinstance(position, float):
            position = position[0] if len(position) == 1 else math.nan
        return float(position) if math.isfinite(position) else None

    def _accept(self, handle: Any) -> None:
        self._close(reached=False, stalled=False)
        position = self._position(handle.request)
        assert position is not None
        self._goal = handle
        self._resting = 0
        self.opening = self._profile.position_to_opening(position / self._profile.gripper.scale)
        self._sent(self.opening)

    def _close(self, reached: bool, stalled: bool) -> None:
        goal, self._goal = self._goal, None
        if goal is not None:
            self._verdict = (reached, stalled)
            goal.execute()

    def _result(self, goal: Any) -> Any:
        reached, stalled = self._verdict or (False, False)
        result = self._type.Result(reached_goal=reached, stalled=stalled)
        position = self._profile.gripper.scale * self._profile.opening_to_position(self._last)
        if self._profile.gripper.kind == "gripper_command":
            result.position = position
        else:
            result.state = JointState(name=[self._profile.gripper.joint], position=[position])
        if goal.is_cancel_requested:
            goal.canceled()
        elif reached or stalled:
            goal.succeed()
        else:
            goal.abort()
        return result
